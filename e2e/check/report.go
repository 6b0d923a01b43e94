package check

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is the outcome of a run. Messages are counted, not requests, save in
// Failures.
type Report struct {
	Began time.Time
	Took  time.Duration

	Sent         int
	Acknowledged int
	Again        int // acknowledged ones that were sent once more under their key
	Refused      int // answered with 4xx
	Unknown      int // answered with 5xx or not at all: may be stored, once
	Polled       int // messages that the pollers saw
	Swept        int // messages that the readers saw

	Lost       int // acknowledged, but not there
	Twice      int // copies beyond the first
	Misordered int // stand before one that was acknowledged before they were sent, or have a later time than the next
	Unexpected int // there, but never sent or refused
	Gaps       int // there, but not seen by a poller or reader that passed
	Repeats    int // seen more often than they are there, or out of order
	WentBack   int // how often a chat was shorter than it had been

	Lists      int      // of members that were read; 0 where the system has none
	WrongLists []string // what is wrong in them

	// LongestPause is the longest time in which nothing was acknowledged.
	LongestPause time.Duration
	Failures     []Request // answered with 5xx or not at all

	stored [][]stored // of each chat, in the end
}

// Good tells whether the promises were kept, and put to the test at all.
func (r *Report) Good() bool {
	return r.Acknowledged > 0 && r.Lost+r.Twice+r.Misordered+r.Unexpected+r.Gaps+r.Repeats+r.WentBack+len(r.WrongLists) == 0
}

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	line := func(what string, count any, more string) { fmt.Fprintf(&b, "%-16s%8v  %s\n", what, count, more) }
	line("sent", r.Sent, fmt.Sprintf("in %.1f s", r.Took.Seconds()))
	line("acknowledged", r.Acknowledged, fmt.Sprintf("%d of them sent again", r.Again))
	line("refused", r.Refused, "")
	line("unknown", r.Unknown, "")
	line("polled", r.Polled, "")
	line("swept", r.Swept, "")
	line("lost", r.Lost, "")
	line("stored twice", r.Twice, "")
	line("misordered", r.Misordered, "")
	line("unexpected", r.Unexpected, "")
	line("gaps", r.Gaps, "")
	line("repeats", r.Repeats, "")
	line("went back", r.WentBack, "")
	line("wrong lists", len(r.WrongLists), fmt.Sprintf("of %d. %s", r.Lists, strings.Join(r.WrongLists[:min(3, len(r.WrongLists))], "; ")))
	line("longest pause", fmt.Sprintf("%.2f s", r.LongestPause.Seconds()), "")
	line("failed requests", len(r.Failures), r.failed())
	return b.String()
}

// failed counts the failures of each kind, as in "send 503: 12".
func (r *Report) failed() string {
	kinds := map[string]int{}
	for _, f := range r.Failures {
		status := fmt.Sprint(f.Status)
		if f.Status == 0 {
			status = "broken"
		}
		kinds[f.Call+" "+status]++
	}
	var counts []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		counts = append(counts, fmt.Sprintf("%s: %d", kind, kinds[kind]))
	}
	return strings.Join(counts, ", ")
}

// compare makes the report of what is there and what was seen.
func (r *run) compare(all [][]stored, pollers []*poller, readers []*reader) *Report {
	report := &Report{Sent: len(r.messages), Again: int(r.again.Load()), LongestPause: time.Duration(r.longestPause.Load()), Failures: r.failures, stored: all}
	copies := make([]int, len(r.messages))
	for chat, there := range all {
		for _, s := range there {
			if s.number < 0 || s.number >= len(copies) || r.messages[s.number].chat != chat || r.messages[s.number].refused {
				report.Unexpected++
			} else {
				copies[s.number]++
			}
		}
		report.Misordered += r.misordered(there)
	}
	for number, m := range r.messages {
		switch {
		case !m.acked.IsZero():
			report.Acknowledged++
			if copies[number] == 0 {
				report.Lost++
			}
		case m.refused:
			report.Refused++
		default:
			report.Unknown++
		}
		report.Twice += max(0, copies[number]-1)
	}
	for _, p := range pollers {
		report.WentBack += p.back
		for _, chat := range p.chats {
			report.Polled += len(p.seen[chat])
			var polled []int
			for _, s := range p.seen[chat] {
				if s.position < len(all[chat]) { // else it came after all was pulled
					polled = append(polled, s.number)
				}
			}
			report.see(numbers(all[chat]), polled)
		}
	}
	for _, reader := range readers {
		for _, s := range reader.sweeps {
			report.Swept += len(s.numbers)
			there := numbers(all[s.chat])
			there = there[:min(s.total, len(there))]
			slices.Reverse(there)
			report.see(there[:min(len(s.numbers), len(there))], s.numbers)
		}
	}
	return report
}

// misordered counts the messages of a chat that stand before one which had been
// acknowledged when they were sent, or whose time is after the next one's.
func (r *run) misordered(there []stored) int {
	count := 0
	var earliest time.Time // acknowledgement of those that follow
	for i, s := range slices.Backward(there) {
		if s.number < 0 || s.number >= len(r.messages) {
			continue
		}
		m := r.messages[s.number]
		late := !earliest.IsZero() && m.began.After(earliest)
		if late || i+1 < len(there) && there[i+1].time < s.time {
			count++
		}
		if !m.acked.IsZero() && (earliest.IsZero() || m.acked.Before(earliest)) {
			earliest = m.acked
		}
	}
	return count
}

// see counts what differs between what is there and what somebody saw of it.
func (r *Report) see(there, seen []int) {
	if slices.Equal(there, seen) {
		return
	}
	times := map[int]int{}
	for _, number := range there {
		times[number]++
	}
	for _, number := range seen {
		times[number]--
	}
	same := true
	for _, n := range times {
		r.Gaps += max(0, n)
		r.Repeats += max(0, -n)
		same = same && n == 0
	}
	if same { // out of order
		r.Repeats++
	}
}

func numbers(there []stored) []int {
	all := make([]int, len(there))
	for i, s := range there {
		all[i] = s.number
	}
	return all
}
