package tidy

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

var (
	// markdownLink is [text](target); a title after the target is not used here.
	markdownLink = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	// markdownCode is code within a line, in which nothing is a link.
	markdownCode = regexp.MustCompile("`[^`]*`")
	// markdownHeading is a heading with its text.
	markdownHeading = regexp.MustCompile(`^#{1,6} +(.*?) *$`)
)

// Links checks that the links of Markdown files to files of the repository, and to
// headings in them, lead somewhere. Addresses elsewhere are not looked at.
func Links(r *Repo) []Finding {
	var findings []Finding
	anchors := map[string]map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(r.Texts)) {
		if path.Ext(name) == ".md" {
			anchors[name] = anchorsOf(r.Texts[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(anchors)) {
		for number, line := range prose(r.Texts[name]) {
			for _, match := range markdownLink.FindAllStringSubmatch(markdownCode.ReplaceAllString(line, ""), -1) {
				if text := r.leads(name, match[1], anchors); text != "" {
					findings = append(findings, Finding{File: name, Line: number, Text: fmt.Sprintf("the link %q %s", match[1], text)})
				}
			}
		}
	}
	return findings
}

// leads says what is wrong with a link in a file, or "".
func (r *Repo) leads(from, link string, anchors map[string]map[string]bool) string {
	target, err := url.Parse(link)
	if err != nil {
		return "cannot be read"
	}
	if target.Scheme != "" || target.Host != "" {
		return ""
	}
	to := from
	if target.Path != "" {
		to = path.Join(path.Dir(from), target.Path)
	}
	if !r.Files[to] && !slices.Contains(r.Dirs, to) {
		return "leads to no file of the repository"
	}
	if target.Fragment == "" {
		return ""
	}
	if known, isText := anchors[to]; !isText || !known[target.Fragment] {
		return "leads to no heading of " + to
	}
	return ""
}

// prose yields the lines of a Markdown text with their numbers, without its blocks of
// code.
func prose(text string) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		fence := ""
		for i, line := range strings.Split(text, "\n") {
			trimmed := strings.TrimSpace(line)
			switch {
			case fence != "":
				if strings.HasPrefix(trimmed, fence) {
					fence = ""
				}
				continue
			case strings.HasPrefix(trimmed, "```"), strings.HasPrefix(trimmed, "~~~"):
				fence = trimmed[:3]
				continue
			}
			if !yield(i+1, line) {
				return
			}
		}
	}
}

// anchorsOf are the names by which the headings of a text are linked to, as GitHub
// makes them: lower case, without punctuation, hyphens for spaces, numbered when the
// same comes again.
func anchorsOf(text string) map[string]bool {
	found := map[string]bool{}
	for _, line := range prose(text) {
		match := markdownHeading.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		name := strings.Map(func(c rune) rune {
			switch {
			case c == ' ':
				return '-'
			case c == '-', c == '_', unicode.IsLetter(c), unicode.IsDigit(c):
				return unicode.ToLower(c)
			}
			return -1
		}, match[1])
		unique := name
		for n := 1; found[unique]; n++ {
			unique = fmt.Sprintf("%s-%d", name, n)
		}
		found[unique] = true
	}
	return found
}
