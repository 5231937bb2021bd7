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
	fixtureNIC   = regexp.MustCompile(`(?s)\n  nic "[^"]+" \{\n.*?\n  \}`)
	fixtureSysfs = regexp.MustCompile(`(?m)^    sysfs\s*=\s*"(.*)"$`)
	fixtureDown  = regexp.MustCompile(`(?m)^    down\s*=\s*true`)
	fixtureGbps  = regexp.MustCompile(`(?m)^    gbps\s*=\s*(\d+)`)
	fixtureNode  = regexp.MustCompile(`(?m)^    numa_node\s*=\s*(\d+)`)
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

func fixture(whole string) *topology.Matrix {
	text := fixtureNIC.ReplaceAllString(whole, "")
	gpus := len(fixtureGPU.FindAllString(text, -1))
	// One lane of each PCIe generation, in MB/s, as topology's users round it.
	lane := []int{0, 250, 500, 985, 1969, 3938, 7563}[number(fixturePCIe, text)]
	m := topology.New(gpus, number(fixtureSpeed, text), 16*lane)
	m.SetSwitched(strings.Contains(text, "nvswitches"))
	for i, match := range fixtureNUMA.FindAllStringSubmatch(text, -1) {
		node, _ := strconv.Atoi(match[1])
		m.SetNUMA(i, node)
	}
	fixtureNICs(whole, text, m)
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

// fixtureNICs are the NICs that are up, with the paths that their folders in sysfs show.
func fixtureNICs(whole, text string, m *topology.Matrix) {
	gpus := fixtureSysfs.FindAllStringSubmatch(text, -1)
	var speeds []int
	var found [][]string
	for _, block := range fixtureNIC.FindAllString(whole, -1) {
		if !fixtureDown.MatchString(block) {
			speeds = append(speeds, number(fixtureGbps, block)*1000/8)
			found = append(found, []string{fixtureSysfs.FindStringSubmatch(block)[1], fixtureNode.FindStringSubmatch(block)[1]})
		}
	}
	m.SetNICs(speeds)
	for nic, at := range found {
		for i, gpu := range gpus {
			a, b := strings.Split(gpu[1], "/"), strings.Split(at[0], "/")
			same := 0
			for same < min(len(a), len(b)) && a[same] == b[same] {
				same++
			}
			path := topology.PathMultiple
			switch {
			case same == 0 && strconv.Itoa(m.NUMA(i)) == at[1]:
				path = topology.PathNode
			case same == 0:
				path = topology.PathSystem
			case same == 1:
				path = topology.PathHostBridge
			case len(a)-same < 3 && len(b)-same < 3:
				path = topology.PathSingle
			}
			m.SetNICPath(i, nic, path)
		}
	}
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
