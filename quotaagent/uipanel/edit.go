package uipanel

import (
	"bytes"
	"slices"
	"strings"

	"golang.org/x/net/html"
)

// Tag is what Edit adds. It loads after the page and before nothing of it.
const Tag = `<script src="` + ScriptPath + `" defer></script>`

// environment is the name of the meta element with which every build of Nomad's UI, an
// Ember application of the name nomad-ui, carries its settings.
const environment = "nomad-ui/config/environment"

// Edit adds the panel's script to the page of Nomad's UI, at the end of its head: without
// Tag it is page again, byte for byte. policies are the values of the headers
// Content-Security-Policy. It returns false for everything that is not certainly that
// page, and where a policy would not let the panel run.
func Edit(page []byte, policies []string) ([]byte, bool) {
	for _, header := range policies {
		for policy := range strings.SplitSeq(header, ",") {
			if !permits(policy) {
				return nil, false
			}
		}
	}
	at, ok := endOfHead(page)
	if !ok {
		return nil, false
	}
	return slices.Concat(page[:at], []byte(Tag), page[at:]), true
}

// endOfHead is where the head of the page ends, if it is the page of Nomad's UI.
func endOfHead(page []byte) (int, bool) {
	tokens := html.NewTokenizer(bytes.NewReader(page))
	at, head, ours := 0, false, false
	for {
		kind := tokens.Next()
		if kind == html.ErrorToken {
			return 0, false
		}
		length := len(tokens.Raw())
		if kind == html.StartTagToken || kind == html.SelfClosingTagToken || kind == html.EndTagToken {
			token := tokens.Token()
			switch {
			case kind == html.EndTagToken:
				if token.Data == "head" {
					return at, head && ours
				}
			case token.Data == "head":
				head = true
			case token.Data == "meta":
				if attribute(token, "http-equiv") == "content-security-policy" {
					return 0, false // it may say anything
				}
				ours = ours || attribute(token, "name") == environment
			case token.Data == "body", token.Data == "template", token.Data == "noscript", token.Data == "svg":
				return 0, false // what follows may not be where it seems to be
			}
		}
		at += length
	}
}

// attribute is the value of an attribute in lower case, or "".
func attribute(t html.Token, name string) string {
	for _, a := range t.Attr {
		if a.Key == name {
			return strings.ToLower(strings.TrimSpace(a.Val))
		}
	}
	return ""
}

// permits reports whether a policy lets a page of this origin load the panel's script and
// style sheet, and ask the agent.
func permits(policy string) bool {
	sources := map[string][]string{}
	for directive := range strings.SplitSeq(policy, ";") {
		words := strings.Fields(strings.ToLower(directive))
		if len(words) == 0 {
			continue
		}
		if _, again := sources[words[0]]; !again { // the first one counts
			sources[words[0]] = words[1:]
		}
	}
	if _, sandboxed := sources["sandbox"]; sandboxed {
		return false
	}
	if _, typed := sources["require-trusted-types-for"]; typed {
		return false
	}
	return permitsOwn(sources, "script-src-elem", "script-src", "default-src") && permitsOwn(sources, "style-src-elem", "style-src", "default-src") &&
		permitsOwn(sources, "connect-src", "default-src")
}

// permitsOwn reports whether the first of the directives that is there lets things of the
// page's own origin in.
func permitsOwn(sources map[string][]string, directives ...string) bool {
	for _, name := range directives {
		if list, there := sources[name]; there {
			return (slices.Contains(list, "'self'") || slices.Contains(list, "*")) && !slices.Contains(list, "'strict-dynamic'")
		}
	}
	return true
}
