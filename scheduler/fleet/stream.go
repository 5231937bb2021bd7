package fleet

import (
	"cmp"
	"slices"
	"sort"
)

const (
	// rollouts is how many futures a state is judged by. More change the outcome
	// less than the choice of workload does.
	rollouts = 64
	// The futures are 64, 128, 256 or 512 pieces of work long. What fits a small
	// hole may be so rare that it comes too late for all such holes but a few: in
	// a future without end every hole would be filled, and none would count.
	shortest = 64
	lengths  = 4
	draws    = shortest << (lengths - 1)
	// kindsMax is how many kinds of work a future has; the rarest are left out.
	kindsMax = 64
	// anyway is the weight of work without GPUs against that of a whole GPU. Work
	// is drawn by what it takes of the GPUs: whoever wants many of them finds room
	// more rarely than he comes, and would be forgotten otherwise.
	anyway = WholeGPU / 10
)

// unlimited memory is not what a node runs out of first.
const unlimited = memoryMiBMax

// stream is the typical work that comes to nodes of a model, and what of it fits
// a state, as sets of kinds.
type stream struct {
	kinds []demand
	// futures are kinds in the order in which they come, the same for all states:
	// states differ by what they are, not by luck.
	futures [rollouts][draws]uint8

	// demanding are the kinds that take GPUs.
	demanding uint64
	// What fits a state: the kinds for which CPU and memory suffice, those that
	// the GPU with the most left suffices for, and those that the number of free
	// GPUs does.
	cpu, memory limits
	byLeft      [WholeGPU + 1]uint64
	byFree      [NodeGPUs + 1]uint64
	// meanCPU and meanMemory are what the work of the stream takes on average, in
	// some unit.
	meanCPU, meanMemory float64
}

// limits are sets of kinds by how much of a resource there is: within[i] are those
// that want no more than steps[i-1].
type limits struct {
	steps  []int64
	within []uint64
}

func newLimits(kinds []demand, of func(*demand) int64) limits {
	var l limits
	for i := range kinds {
		l.steps = append(l.steps, of(&kinds[i]))
	}
	slices.Sort(l.steps)
	l.steps = slices.Compact(l.steps)
	l.within = make([]uint64, len(l.steps)+1)
	for i := range kinds {
		for j, step := range l.steps {
			if of(&kinds[i]) <= step {
				l.within[j+1] |= 1 << i
			}
		}
	}
	return l
}

// at are the kinds that there is enough for.
func (l *limits) at(amount int64) uint64 {
	low, high := 0, len(l.steps)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if l.steps[middle] <= amount {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return l.within[low]
}

// weighed is a kind with how likely it is drawn.
type weighed struct {
	demand
	weight int64
}

// kindsFor are the kinds of work that may come to GPUs of a model, those that
// differ in the accepted models alone as one, and the rarest left out. Their
// order does not depend on that of the typical work.
func kindsFor(model string, typical []Typical) []weighed {
	var kinds []weighed
	at := map[demand]int{}
	for i := range typical {
		t := &typical[i]
		if t.Count == 0 || !t.Accepts(model) {
			continue
		}
		d := demandOf(&t.Ask)
		j, known := at[d]
		if !known {
			j = len(kinds)
			at[d] = j
			kinds = append(kinds, weighed{demand: d})
		}
		kinds[j].weight += t.Count * int64(anyway+t.TotalMilli())
	}
	slices.SortFunc(kinds, func(a, b weighed) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.cpu, b.cpu), cmp.Compare(a.memory, b.memory),
			cmp.Compare(a.gpus, b.gpus), cmp.Compare(a.milli, b.milli))
	})
	return kinds[:min(len(kinds), kindsMax)]
}

func newStream(kinds []weighed) *stream {
	s := &stream{}
	var sums []int64
	total := int64(0)
	for i, k := range kinds {
		s.kinds = append(s.kinds, k.demand)
		total += k.weight
		sums = append(sums, total)
		// The conversions keep machines from fusing the two steps, and so from
		// differing in the last digit.
		s.meanCPU += float64(float64(k.weight) * float64(k.cpu))
		s.meanMemory += float64(float64(k.weight) * float64(k.memory))
		if k.gpus > 0 {
			s.demanding |= 1 << i
		}
		for left := int(k.milli); left <= WholeGPU; left++ {
			s.byLeft[left] |= 1 << i
		}
		for free := range s.byFree {
			if k.gpus <= 1 || free >= k.gpus {
				s.byFree[free] |= 1 << i
			}
		}
	}
	s.cpu = newLimits(s.kinds, func(d *demand) int64 { return d.cpu })
	s.memory = newLimits(s.kinds, func(d *demand) int64 { return d.memory })
	s.draw(sums)
	return s
}

// draw draws the futures. The numbers are always the same.
func (s *stream) draw(sums []int64) {
	if len(sums) == 0 {
		return
	}
	numbers := sequence(42)
	for r := range s.futures {
		for i := range s.futures[r] {
			x := numbers.below(sums[len(sums)-1])
			s.futures[r][i] = uint8(sort.Search(len(sums), func(j int) bool { return sums[j] > x }))
		}
	}
}

// fitting are the kinds that fit a state with so many GPUs free.
func (s *stream) fitting(v *state, free int) uint64 {
	fitting := s.cpu.at(v.cpu) & s.byFree[free] & s.byLeft[v.left[max(v.gpus, 1)-1]]
	if v.memory < unlimited/2 {
		fitting &= s.memory.at(v.memory)
	}
	return fitting
}

// waste is how many GPU milli lie idle after a future, or once no work with GPUs
// fits any more, summed over all futures.
func (s *stream) waste(v *state) int64 {
	idle, free := v.idle(), v.free()
	fitting := s.fitting(v, free)
	if fitting&s.demanding == 0 {
		return rollouts * idle
	}
	sum := int64(0)
	for r := range s.futures {
		sum += s.wasteIn(s.futures[r][:shortest<<(r%lengths)], *v, fitting, idle, free)
	}
	return sum
}

// wasteIn is the waste of one future. What no longer fits never will again, so
// the set of kinds that fit only shrinks.
func (s *stream) wasteIn(future []uint8, v state, fitting uint64, idle int64, free int) int64 {
	for _, kind := range future {
		if fitting>>kind&1 == 0 {
			continue
		}
		d, at := &s.kinds[kind], 0
		switch {
		case d.gpus > 1:
			free -= d.gpus
		case d.gpus == 1:
			if at = v.tightest(d.milli); v.left[at] == WholeGPU {
				free--
			}
		}
		v.take(d, at)
		idle -= int64(d.gpus) * int64(d.milli)
		if fitting &= s.fitting(&v, free); fitting&s.demanding == 0 {
			break
		}
	}
	return idle
}

// canonical is the state by which the waste is remembered. Memory that will not
// run out first makes no difference; otherwise whole GiB of it do.
func (s *stream) canonical(v state) state {
	if float64(v.memory)*s.meanCPU >= float64(v.cpu)*s.meanMemory {
		v.memory = unlimited
	} else {
		v.memory -= v.memory % 1024
	}
	return v
}

// sequence is a sequence of pseudo-random numbers (splitmix64).
type sequence uint64

// below is the next number from 0 to n-1.
func (s *sequence) below(n int64) int64 {
	*s += 0x9e3779b97f4a7c15
	z := uint64(*s)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return int64((z ^ z>>31) % uint64(n))
}
