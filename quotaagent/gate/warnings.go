package gate

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// nomadWarnings is the head of Nomad's own Warnings text
// (helper/warning.go).
var nomadWarnings = regexp.MustCompile(`^(\d+) warnings?:\n`)

// mergeWarnings adds ours to a Warnings text of Nomad in Nomad's format.
// Further lines of a warning are indented under its bullet.
func mergeWarnings(theirs string, ours []string) string {
	var bullets []string
	for _, o := range ours {
		if o = strings.TrimSpace(o); o != "" {
			bullets = append(bullets, "\n* "+strings.ReplaceAll(o, "\n", "\n  "))
		}
	}
	if len(bullets) == 0 {
		return theirs
	}
	count, rest := 0, ""
	theirs = strings.TrimSpace(theirs)
	if head := nomadWarnings.FindStringSubmatch(theirs); head != nil {
		n, err := strconv.Atoi(head[1])
		if err == nil {
			count, rest = n, strings.TrimPrefix(theirs, head[0])
		}
	}
	if rest == "" && theirs != "" {
		count, rest = 1, "\n* "+theirs
	}
	count += len(bullets)
	plural := "s"
	if count == 1 {
		plural = ""
	}
	return fmt.Sprintf("%d warning%s:\n%s%s", count, plural, rest, strings.Join(bullets, ""))
}
