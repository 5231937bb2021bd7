package simulate

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// jobsMax bounds a trace.
	jobsMax = 5_000_000
	// millisMax bounds times: the year 5138.
	millisMax = 100_000_000_000_000
	// runMax bounds the length of a job: ten years.
	runMax = 10 * 366 * 24 * 3600 * 1000
	// gpusMax bounds the GPUs, and the allocations, of one job.
	gpusMax = 1_000_000
)

// Job is one line of a trace.
type Job struct {
	// Line of the file, which ends the ties of times.
	Line int
	// SubmitMS and DurationMS are milliseconds.
	SubmitMS, DurationMS int64
	// GPUs in all, and Count of allocations to which they belong in equal parts; 0 leaves
	// that to the simulation.
	GPUs, Count int
	// Class is a machine type or a device's name; "" for any.
	Class string
	// CPU in MHz and memory in MiB of each allocation.
	CPU, MemoryMiB int
	Budget         string
}

// Trace is the jobs of a file, by the time of their submission.
type Trace struct {
	Jobs []Job
	// NoGPUs and Shares are lines that were left out: jobs without GPUs, and with a part
	// of one.
	NoGPUs, Shares int
	// Ignored are the columns that nothing is read from.
	Ignored []string
}

// columns are the names of a column: ours, and those of traces that are published.
var columns = map[string]string{
	"submit_time": "submit_time", "timestamp": "submit_time", "creation_time": "submit_time",
	"duration": "duration", "deletion_time": "deletion_time",
	"gpus": "gpus", "num_gpus": "gpus", "num_gpu": "gpus", "gpu_milli": "gpu_milli",
	"count": "count", "class": "class", "cpu": "cpu", "memory": "memory",
	"budget": "budget", "cluster": "budget", "vc": "budget",
}

// ParseTrace reads a trace in CSV, whose first line names the columns. The name is for
// its errors, which say the line.
func ParseTrace(name string, content []byte) (Trace, error) {
	r := csv.NewReader(bytes.NewReader(content))
	r.ReuseRecord, r.TrimLeadingSpace = true, true
	header, err := r.Read()
	if err != nil {
		return Trace{}, fmt.Errorf("%s holds no trace: its first line must name the columns (submit_time, duration, gpus)", name)
	}
	t := Trace{}
	at := make(map[string]int)
	for i, title := range header {
		title = strings.TrimPrefix(title, "\ufeff")
		column, known := columns[strings.ToLower(strings.TrimSpace(title))]
		if _, twice := at[column]; twice && known {
			return Trace{}, fmt.Errorf("%s:1: two columns are the %s", name, column)
		}
		if known {
			at[column] = i
		} else {
			t.Ignored = append(t.Ignored, title)
		}
	}
	_, ends := at["deletion_time"]
	for _, needed := range []string{"submit_time", "duration", "gpus"} {
		if _, has := at[needed]; !has && (needed != "duration" || !ends) {
			return Trace{}, fmt.Errorf("%s:1: there is no column %s; the columns are %s", name, needed, strings.Join(header, ", "))
		}
	}
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		line, _ := r.FieldPos(0)
		if err != nil {
			return Trace{}, fmt.Errorf("%s: %w", name, err)
		}
		if err := t.add(fields{record: record, at: at, line: line}); err != nil {
			return Trace{}, fmt.Errorf("%s:%d: %w", name, line, err)
		}
	}
	slices.SortFunc(t.Jobs, func(a, b Job) int { return cmp.Or(cmp.Compare(a.SubmitMS, b.SubmitMS), cmp.Compare(a.Line, b.Line)) })
	return t, nil
}

// fields are the cells of one line.
type fields struct {
	record []string
	at     map[string]int
	line   int
}

func (f fields) text(column string) string {
	i, ok := f.at[column]
	if !ok {
		return ""
	}
	return strings.TrimSpace(f.record[i])
}

// number reads a cell that may be empty.
func (f fields) number(column string) (int, error) {
	text := f.text(column)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || n != math.Trunc(n) || n < 0 || n > gpusMax*1000 {
		return 0, fmt.Errorf("%s is %q: it must be a whole number that is not negative", column, text)
	}
	return int(n), nil
}

// add adds the job of a line, unless it is one that is not simulated.
func (t *Trace) add(f fields) error {
	j := Job{Line: f.line, Class: strings.Clone(f.text("class")), Budget: strings.Clone(f.text("budget"))}
	var numbers [5]int
	for i, column := range []string{"gpus", "gpu_milli", "count", "cpu", "memory"} {
		n, err := f.number(column)
		if err != nil {
			return err
		}
		numbers[i] = n
	}
	j.GPUs, j.Count, j.CPU, j.MemoryMiB = numbers[0], numbers[2], numbers[3], numbers[4]
	milli := numbers[1]
	switch {
	case j.GPUs == 0:
		t.NoGPUs++
		return nil
	case f.text("gpu_milli") != "" && milli%1000 != 0:
		t.Shares++
		return nil
	case j.GPUs > gpusMax:
		return fmt.Errorf("gpus is %d: a job has at most %d", j.GPUs, gpusMax)
	case j.Count > 0 && j.GPUs%j.Count != 0:
		return fmt.Errorf("%d GPUs cannot belong to %d allocations in equal parts", j.GPUs, j.Count)
	case len(t.Jobs) == jobsMax:
		return fmt.Errorf("a trace has at most %d jobs", jobsMax)
	}
	var err error
	if j.SubmitMS, err = instant(f.text("submit_time")); err != nil {
		return fmt.Errorf("submit_time is %q: %w", f.text("submit_time"), err)
	}
	if text := f.text("duration"); text != "" || f.text("deletion_time") == "" {
		if j.DurationMS, err = length(text); err != nil {
			return fmt.Errorf("duration is %q: %w", text, err)
		}
	} else {
		end, err := instant(f.text("deletion_time"))
		if err != nil || end < j.SubmitMS || end-j.SubmitMS > runMax {
			return fmt.Errorf("deletion_time is %q: it must be a time after submit_time, by at most ten years", f.text("deletion_time"))
		}
		j.DurationMS = end - j.SubmitMS
	}
	t.Jobs = append(t.Jobs, j)
	return nil
}

var (
	errInstant = errors.New("it must be seconds, or a time such as 2026-03-01T12:00:00Z or 2026-03-01 12:00:00")
	errLength  = errors.New("it must be seconds, or a duration such as 1h30m, not negative and at most ten years")
)

// instant is a time in milliseconds.
func instant(text string) (int64, error) {
	if ms, ok := millis(text); ok {
		return ms, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02T15:04:05"} {
		if at, err := time.Parse(layout, text); err == nil && at.UnixMilli() >= 0 && at.UnixMilli() <= millisMax {
			return at.UnixMilli(), nil
		}
	}
	return 0, errInstant
}

// length is a duration in milliseconds.
func length(text string) (int64, error) {
	ms, ok := millis(text)
	if d, err := time.ParseDuration(text); !ok && err == nil {
		ms, ok = d.Milliseconds(), true
	}
	if !ok || ms < 0 || ms > runMax {
		return 0, errLength
	}
	return ms, nil
}

// millis are seconds in milliseconds.
func millis(text string) (int64, bool) {
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds >= 0) || seconds > millisMax/1000 {
		return 0, false
	}
	return int64(math.Round(seconds * 1000)), true
}
