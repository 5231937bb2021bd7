package topology

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	encodingVersion  = "1"
	encodingWithNICs = "2"
	partsWithoutNICs = 7
	linkDigits       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ*" // 0..36
)

// Encode writes the matrix as one string:
//
//	1;<size>;<link MB/s>;<pcie MB/s>;<d|s>;<numa,numa,...>;<pair pair ...>
//
// with d for direct links and s for NVSwitch, and for each pair i<j, in
// row-major order, a digit of base 37 (NVLinks) and a letter (PCIe path). Where NICs are
// known the version is 2, and two parts more follow:
//
//	;<MB/s of each NIC,...>;<path path ...>
//
// with the letter of the path from each GPU to each NIC, row by row of a GPU.
func (m *Matrix) Encode() string {
	var b strings.Builder
	kind := "d"
	if m.switched {
		kind = "s"
	}
	version := encodingVersion
	if len(m.nics) > 0 {
		version = encodingWithNICs
	}
	fmt.Fprintf(&b, "%s;%d;%d;%d;%s;", version, m.size, m.linkMBps, m.pcieMBps, kind)
	writeNumbers(&b, m.numa)
	b.WriteByte(';')
	for i := range m.size {
		for j := i + 1; j < m.size; j++ {
			b.WriteByte(linkDigits[m.Links(i, j)])
			b.WriteByte(pathLetters[m.Path(i, j)])
		}
	}
	if len(m.nics) == 0 {
		return b.String()
	}
	b.WriteByte(';')
	writeNumbers(&b, m.nics)
	b.WriteByte(';')
	for _, path := range m.nicPaths {
		b.WriteByte(pathLetters[path])
	}
	return b.String()
}

func writeNumbers(b *strings.Builder, numbers []int) {
	for i, n := range numbers {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(n))
	}
}

var errMalformed = errors.New("malformed topology")

// Parse reads what Encode wrote. Any other text is an error that says which
// part is wrong; no partial matrix is returned.
func Parse(text string) (*Matrix, error) {
	parts := strings.Split(text, ";")
	want := partsWithoutNICs
	switch parts[0] {
	case encodingVersion:
	case encodingWithNICs:
		want += 2
	default:
		return nil, fmt.Errorf("%w: version %q, this build reads %q and %q", errMalformed, parts[0], encodingVersion, encodingWithNICs)
	}
	if len(parts) != want {
		return nil, fmt.Errorf("%w: %d parts separated by ';', want %d", errMalformed, len(parts), want)
	}
	size, err := parseBounded("size", parts[1], MaxGPUs)
	if err != nil {
		return nil, err
	}
	link, err := parseBounded("NVLink speed", parts[2], maxMBps)
	if err != nil {
		return nil, err
	}
	pcie, err := parseBounded("PCIe speed", parts[3], maxMBps)
	if err != nil {
		return nil, err
	}
	m := New(size, link, pcie)
	switch parts[4] {
	case "d":
	case "s":
		m.switched = true
	default:
		return nil, fmt.Errorf("%w: link kind %q, want d or s", errMalformed, parts[4])
	}
	if err := m.parseNUMA(parts[5]); err != nil {
		return nil, err
	}
	if err := m.parsePairs(parts[6]); err != nil {
		return nil, err
	}
	if len(parts) > partsWithoutNICs {
		if err := m.parseNICs(parts[7], parts[8]); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func parseBounded(what, text string, most int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most || strconv.Itoa(n) != text {
		return 0, fmt.Errorf("%w: %s %q, want a number in 0..%d", errMalformed, what, text, most)
	}
	return n, nil
}

func (m *Matrix) parseNUMA(text string) error {
	var fields []string
	if text != "" {
		fields = strings.Split(text, ",")
	}
	if len(fields) != m.size {
		return fmt.Errorf("%w: %d NUMA nodes for %d GPUs", errMalformed, len(fields), m.size)
	}
	for i, field := range fields {
		if field == strconv.Itoa(UnknownNUMA) {
			continue
		}
		node, err := parseBounded("NUMA node", field, 1<<16)
		if err != nil {
			return err
		}
		m.numa[i] = node
	}
	return nil
}

func (m *Matrix) parsePairs(text string) error {
	if want := m.size * max(0, m.size-1); len(text) != want {
		return fmt.Errorf("%w: pairs take %d characters, want %d", errMalformed, len(text), want)
	}
	at := 0
	for i := range m.size {
		for j := i + 1; j < m.size; j++ {
			links := strings.IndexByte(linkDigits, text[at])
			path := strings.IndexByte(pathLetters, text[at+1])
			if links < 0 || path < 0 {
				return fmt.Errorf("%w: pair %d,%d is %q", errMalformed, i, j, text[at:at+2])
			}
			m.Set(i, j, links, Path(path))
			at += 2
		}
	}
	return nil
}

func (m *Matrix) parseNICs(speeds, paths string) error {
	fields := strings.Split(speeds, ",")
	if len(fields) > MaxNICs {
		return fmt.Errorf("%w: %d NICs, want %d at most", errMalformed, len(fields), MaxNICs)
	}
	numbers := make([]int, len(fields))
	for n, field := range fields {
		mbps, err := parseBounded("NIC speed", field, maxMBps)
		if err != nil {
			return err
		}
		numbers[n] = mbps
	}
	if want := m.size * len(numbers); len(paths) != want {
		return fmt.Errorf("%w: paths to NICs take %d characters, want %d", errMalformed, len(paths), want)
	}
	m.SetNICs(numbers)
	for at := range paths {
		path := strings.IndexByte(pathLetters, paths[at])
		if path < 0 {
			return fmt.Errorf("%w: path %d of GPU %d to a NIC is %q", errMalformed, at%len(numbers), at/len(numbers), paths[at:at+1])
		}
		m.nicPaths[at] = Path(path)
	}
	return nil
}
