package fleet

// demand is an ask as arithmetic wants it.
type demand struct {
	cpu, memory int64
	gpus        int
	milli       int16
}

func demandOf(a *Ask) demand {
	return demand{cpu: a.CPUMilli, memory: a.MemoryMiB, gpus: a.GPUs, milli: int16(a.GPUMilli)}
}

// state is what a node has left, whichever of its GPUs has it: the left milli
// are ascending. Nodes of one model and one state are interchangeable.
type state struct {
	cpu, memory int64
	gpus        int
	left        [NodeGPUs]int16
}

func (s *state) idle() int64 {
	sum := int64(0)
	for _, left := range s.left[:s.gpus] {
		sum += int64(left)
	}
	return sum
}

// free is how many GPUs are wholly free.
func (s *state) free() int {
	n := 0
	for n < s.gpus && s.left[s.gpus-1-n] == WholeGPU {
		n++
	}
	return n
}

// fits reports whether there is room for the demand.
func (s *state) fits(d *demand) bool {
	if s.cpu < d.cpu || s.memory < d.memory || s.gpus < d.gpus {
		return false
	}
	return d.gpus == 0 || s.left[s.gpus-d.gpus] >= d.milli
}

// take takes what is demanded, a share from the GPU at the given place. There is
// room for it.
func (s *state) take(d *demand, at int) {
	s.cpu -= d.cpu
	s.memory -= d.memory
	switch {
	case d.gpus == 1:
		left := s.left[at] - d.milli
		for at > 0 && s.left[at-1] > left {
			s.left[at] = s.left[at-1]
			at--
		}
		s.left[at] = left
	case d.gpus > 1:
		copy(s.left[d.gpus:s.gpus], s.left[:s.gpus-d.gpus])
		clear(s.left[:d.gpus])
	}
}

// tightest is the place of the first GPU that has enough left for a share.
func (s *state) tightest(milli int16) int {
	at := 0
	for s.left[at] < milli {
		at++
	}
	return at
}
