package setstest

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/nomad-governor/governor/internal/gpu/topology"
)

var (
	fixtureRow   = regexp.MustCompile(`(?m)^\s*"((?:X|NV\d+|PIX|PXB|PHB|NODE|SYS|\?)(?:\s+(?:X|NV\d+|PIX|PXB|PHB|NODE|SYS|\?))*)",?$`)
	fixtureRows  = regexp.MustCompile(`(?s)\n  topology = \[\n(.*?)\n  \]`)
	fixtureNUMA  = regexp.MustCompile(`(?m)^    numa_node\s*=\s*(\d+)`)
	fixtureGPU   = regexp.MustCompile(`(?m)^  gpu \{`)
	fixtureSpeed = regexp.MustCompile(`nvlink_speed_mbps\s*=\s*(\d+)`)
	fixturePCIe  = regexp.MustCompile(`pcie_generation\s*=\s*(\d+)`)
	fixtureSets  = regexp.MustCompile(`(?m)^    (sys|node|phb|pxb|pix)\s*=\s*\[(.*)\]$`)
	fixtureSet   = regexp.MustCompile(`\[([\d, ]+)\]`)
)

// Fixtures reads the topologies of the fake library's fixtures, by name: those
// that the product ships tests for. The fixtures belong to another component,
// which may not be imported, so their texts are read.
func Fixtures(folder string) (map[string]*topology.Matrix, error) {
	names, err := filepath.Glob(filepath.Join(folder, "*.hcl"))
	if err != nil {
		return nil, err
	}
	found := map[string]*topology.Matrix{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		found[strings.TrimSuffix(filepath.Base(name), ".hcl")] = fixture(string(text))
	}
	return found, nil
}

func fixture(text string) *topology.Matrix {
	gpus := len(fixtureGPU.FindAllString(text, -1))
	// One lane of each PCIe generation, in MB/s, as topology's users round it.
	lane := []int{0, 250, 500, 985, 1969, 3938, 7563}[number(fixturePCIe, text)]
	m := topology.New(gpus, number(fixtureSpeed, text), 16*lane)
	m.SetSwitched(strings.Contains(text, "nvswitches"))
	for i, match := range fixtureNUMA.FindAllStringSubmatch(text, -1) {
		node, _ := strconv.Atoi(match[1])
		m.SetNUMA(i, node)
	}
	paths := fixturePaths(text, m)
	rows := fixtureRow.FindAllStringSubmatch(fixtureRows.FindStringSubmatch(text)[1], -1)
	for i := range rows {
		cells := strings.Fields(rows[i][1])
		for j := range i {
			links := min(linksOf(cells[j]), linksOf(strings.Fields(rows[j][1])[i]))
			path := paths[i][j]
			if named, ok := pathNames[cells[j]]; ok {
				path = named
			}
			m.Set(i, j, links, path)
		}
	}
	return m
}

var pathNames = map[string]topology.Path{
	"PIX": topology.PathSingle, "PXB": topology.PathMultiple, "PHB": topology.PathHostBridge,
	"NODE": topology.PathNode, "SYS": topology.PathSystem, "?": topology.PathUnknown,
}

// fixturePaths are the PCIe paths below NVLinks: by NUMA node, or as the pcie
// block says.
func fixturePaths(text string, m *topology.Matrix) [][]topology.Path {
	paths := make([][]topology.Path, m.Size())
	for i := range paths {
		paths[i] = make([]topology.Path, m.Size())
		for j := range paths[i] {
			switch {
			case m.NUMA(i) == topology.UnknownNUMA || m.NUMA(j) == topology.UnknownNUMA:
			case m.NUMA(i) == m.NUMA(j):
				paths[i][j] = topology.PathNode
			default:
				paths[i][j] = topology.PathSystem
			}
		}
	}
	for _, block := range fixtureSets.FindAllStringSubmatch(text, -1) { // the nearest stand last
		for _, set := range fixtureSet.FindAllStringSubmatch(block[2], -1) {
			var at []int
			for _, field := range strings.Split(set[1], ",") {
				i, _ := strconv.Atoi(strings.TrimSpace(field))
				at = append(at, i)
			}
			for _, i := range at {
				for _, j := range at {
					paths[i][j] = pathNames[strings.ToUpper(block[1])]
				}
			}
		}
	}
	return paths
}

func linksOf(cell string) int {
	links, _ := strconv.Atoi(strings.TrimPrefix(cell, "NV"))
	return links
}

func number(pattern *regexp.Regexp, text string) int {
	match := pattern.FindStringSubmatch(text)
	if match == nil {
		return 0
	}
	n, _ := strconv.Atoi(match[1])
	return n
}
