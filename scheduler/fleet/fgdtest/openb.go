package fgdtest

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/scheduler/fleet"
)

// Pod is one arrival of a trace.
type Pod struct {
	Name string
	Ask  fleet.Ask
}

// Workloads are the names of the paper's 17 workloads.
func Workloads() []string {
	return []string{
		"default", "cpu050", "cpu100", "cpu200", "cpu250",
		"gpushare40", "gpushare60", "gpushare80", "gpushare100",
		"gpuspec10", "gpuspec20", "gpuspec25", "gpuspec33",
		"multigpu20", "multigpu30", "multigpu40", "multigpu50",
	}
}

// ReadNodes reads the list of GPU nodes.
func ReadNodes(r io.Reader) ([]fleet.Node, error) {
	t, err := readTable(r)
	if err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	var nodes []fleet.Node
	for t.next() {
		node := fleet.Node{ID: t.text("sn"), Model: t.text("model"), CPUMilli: t.number("cpu_milli"), MemoryMiB: t.number("memory_mib")}
		for range t.number("gpu") {
			node.GPUs = append(node.GPUs, fleet.WholeGPU)
		}
		nodes = append(nodes, node)
	}
	return nodes, t.err
}

// ReadPods reads one list of pods. The models that a pod accepts are the last
// column of few lists; without it a pod accepts all.
func ReadPods(r io.Reader) ([]Pod, error) {
	t, err := readTable(r)
	if err != nil {
		return nil, fmt.Errorf("read pods: %w", err)
	}
	var pods []Pod
	for t.next() {
		pod := Pod{Name: t.text("name"), Ask: fleet.Ask{
			CPUMilli: t.number("cpu_milli"), MemoryMiB: t.number("memory_mib"),
			GPUs: int(t.number("num_gpu")), GPUMilli: int(t.number("gpu_milli")),
		}}
		if _, given := t.columns["gpu_spec"]; given && t.text("gpu_spec") != "" {
			pod.Ask.Models = strings.Split(t.text("gpu_spec"), "|")
		}
		pods = append(pods, pod)
	}
	return pods, t.err
}

// Cell names one figure of the authors' results.
type Cell struct {
	Workload string
	// Policy as in Policies.
	Policy string
}

// Result is one of the authors' runs: the share of GPUs in use, in percent, once
// the pods that have arrived have asked for 0, 1, ... 130 % of them.
type Result struct {
	Cell
	Seed       int64
	Allocation []float64
}

// ReadResults reads the authors' file of results.
func ReadResults(r io.Reader) ([]Result, error) {
	t, err := readTable(r)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	var results []Result
	for t.next() {
		_, policy, _ := strings.Cut(t.text("sc_policy"), "-") // 03-GpuClustering
		result := Result{
			Cell: Cell{Workload: strings.TrimPrefix(t.text("workload"), "openb_pod_list_"), Policy: strings.TrimPrefix(policy, "Gpu")},
			Seed: t.number("seed"),
		}
		for percent := range LoadPercent + 1 {
			result.Allocation = append(result.Allocation, t.fraction(strconv.Itoa(percent)))
		}
		results = append(results, result)
	}
	return results, t.err
}

// table reads a CSV file with a header by the names of its columns. The first
// mistake ends it.
type table struct {
	reader  *csv.Reader
	columns map[string]int
	row     []string
	line    int
	err     error
}

func readTable(r io.Reader) (*table, error) {
	t := &table{reader: csv.NewReader(r), columns: map[string]int{}, line: 1}
	t.reader.FieldsPerRecord = -1 // some lists leave the last columns out
	header, err := t.reader.Read()
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	for i, name := range header {
		t.columns[name] = i
	}
	return t, nil
}

func (t *table) next() bool {
	if t.err != nil {
		return false
	}
	row, err := t.reader.Read()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			t.err = err
		}
		return false
	}
	t.row, t.line = row, t.line+1
	return true
}

func (t *table) text(column string) string {
	i, ok := t.columns[column]
	if !ok || i >= len(t.row) {
		t.fail(column, errors.New("is missing"))
		return ""
	}
	return t.row[i]
}

func (t *table) number(column string) int64 {
	n, err := strconv.ParseInt(t.text(column), 10, 64)
	t.fail(column, err)
	return n
}

func (t *table) fraction(column string) float64 {
	n, err := strconv.ParseFloat(t.text(column), 64)
	t.fail(column, err)
	return n
}

func (t *table) fail(column string, err error) {
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("line %d, column %s: %w", t.line, column, err)
	}
}
