package tidy

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// unfinishedWords mark work that was not done. They are written in halves
// here so that this file does not find itself.
var unfinishedWords = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)

// machinePath matches a path that exists only on one person's machine: in a
// home directory or a checkout at the root.
var machinePath = regexp.MustCompile("(?:^|[\\s\"'`=(:,])/(?:root|work|home/[a-z][a-z0-9_-]*|Users/[A-Za-z][A-Za-z0-9_-]*)/[A-Za-z0-9_.-]+")

// Words forbids marks of unfinished work.
func Words(r *Repo) []Finding {
	return matches(r, unfinishedWords, "finish it, or write an issue: %q")
}

// MachinePaths forbids paths that only one machine has.
func MachinePaths(r *Repo) []Finding {
	return matches(r, machinePath, "names a path of one machine: %q")
}

func matches(r *Repo, pattern *regexp.Regexp, format string) []Finding {
	var findings []Finding
	for _, name := range slices.Sorted(maps.Keys(r.Texts)) {
		for i, line := range strings.Split(r.Texts[name], "\n") {
			if match := pattern.FindString(line); match != "" {
				findings = append(findings, Finding{File: name, Line: i + 1, Text: fmt.Sprintf(format, strings.TrimSpace(match))})
			}
		}
	}
	return findings
}

// changelogName is where users read what changed.
const changelogName = "CHANGELOG.md"

// changelogSections in the order in which they appear, each only when not empty.
func changelogSections() []string {
	return []string{
		"FEATURES:", "BREAKING CHANGES:", "SECURITY:", "IMPROVEMENTS:",
		"DEPRECATIONS:", "BUG FIXES:", "NOTES:",
	}
}

var (
	// changelogRelease is a heading: "## UNRELEASED" or "## 0.1.0 (November 23, 2026)".
	changelogRelease = regexp.MustCompile(`^## (?:UNRELEASED|\d+\.\d+\.\d+(?:-[a-z]+\.\d+)? \([A-Z][a-z]+ \d{1,2}, \d{4}\))$`)
	// changelogEntry is "* component: Sentence", with a feature's name in bold.
	changelogEntry = regexp.MustCompile(`^\* (?:\*\*)?([a-z][a-z0-9/_.-]*)(?:\*\*)?: (?:\*\*)?(\S.*)$`)
)

// changelogReader checks a changelog line by line.
type changelogReader struct {
	components []string
	findings   []Finding
	release    string
	section    int // index in changelogSections, -1 before the first
	entries    int // in this section
	last       string
}

// Changelog checks the form of CHANGELOG.md.
func Changelog(r *Repo) []Finding {
	text, ok := r.Texts[changelogName]
	if !ok {
		return []Finding{{File: changelogName, Text: "is missing: users read there what changed"}}
	}
	reader := &changelogReader{components: changelogComponents(r), section: -1}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		reader.read(i+1, line)
	}
	reader.endSection(len(lines))
	return reader.findings
}

// changelogComponents are the names of our folders, with and without parents.
func changelogComponents(r *Repo) []string {
	names := []string{"build"}
	for _, dir := range r.Dirs {
		names = append(names, dir, path.Base(dir))
	}
	return names
}

func (c *changelogReader) read(number int, line string) {
	switch {
	case line == "", strings.HasPrefix(line, "  "): // a continued entry
	case strings.HasPrefix(line, "#"):
		c.endSection(number)
		if !changelogRelease.MatchString(line) {
			c.complain(number, `a heading is "## UNRELEASED" or "## X.Y.Z (Month DD, YYYY)"`)
		}
		c.release, c.section = line, -1
	case slices.Contains(changelogSections(), line):
		c.startSection(number, line)
	case strings.HasPrefix(line, "* "):
		c.entry(number, line)
	default:
		c.complain(number, "neither a release, a section nor an entry: %q", line)
	}
}

func (c *changelogReader) startSection(number int, line string) {
	c.endSection(number)
	section := slices.Index(changelogSections(), line)
	if c.release == "" {
		c.complain(number, "a section before the first release")
	}
	if section <= c.section {
		c.complain(number, "%s is out of order: %s", line, strings.Join(changelogSections(), " "))
	}
	c.section = section
}

// endSection complains of an empty section and forgets its order.
func (c *changelogReader) endSection(number int) {
	if c.section >= 0 && c.entries == 0 {
		c.complain(number, "the section %s above is empty", changelogSections()[c.section])
	}
	c.entries, c.last = 0, ""
}

func (c *changelogReader) entry(number int, line string) {
	c.entries++
	match := changelogEntry.FindStringSubmatch(line)
	if match == nil || c.section < 0 {
		c.complain(number, `an entry stands in a section and reads "* component: Sentence"`)
		return
	}
	if !slices.Contains(c.components, match[1]) {
		c.complain(number, "%q is no folder of ours", match[1])
	}
	if match[1] < c.last {
		c.complain(number, "entries are sorted by component: %q after %q", match[1], c.last)
	}
	c.last = match[1]
}

func (c *changelogReader) complain(number int, format string, args ...any) {
	c.findings = append(c.findings, Finding{File: changelogName, Line: number, Text: fmt.Sprintf(format, args...)})
}
