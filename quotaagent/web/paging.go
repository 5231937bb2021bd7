package web

import (
	"html/template"
	"net/url"
	"strconv"
)

// paging is which part of a list is shown.
type paging struct {
	// From and To are the numbers of the first and last that is shown, of Of.
	From, To, Of int
	// Previous and Next are addresses, "" at the ends.
	Previous, Next template.URL
	Thing          string
}

// pageOf cuts a list to the page that the address asks for: the parameter name counts
// from 1. What does not exist is the last one.
func pageOf[T any](v *visit, items []T, size int, thing string) ([]T, paging) {
	at, err := strconv.Atoi(v.query("page"))
	if err != nil {
		at = 1
	}
	return pageAt(v, items, size, thing, at)
}

// pageAt is pageOf for one page.
func pageAt[T any](v *visit, items []T, size int, thing string, at int) ([]T, paging) {
	last := max(1, (len(items)+size-1)/size)
	at = min(max(1, at), last)
	from, to := (at-1)*size, min(at*size, len(items))
	p := paging{From: from + 1, To: to, Of: len(items), Thing: thing}
	if len(items) == 0 {
		p.From = 0
	}
	if at > 1 {
		p.Previous = v.with("page", strconv.Itoa(at-1))
	}
	if at < last {
		p.Next = v.with("page", strconv.Itoa(at+1))
	}
	return items[from:to], p
}

// with is the address of this page with another value of one parameter.
func (v *visit) with(name, value string) template.URL {
	q := url.Values{}
	for key, values := range v.URL.Query() {
		if key != name && len(values) > 0 && values[0] != "" {
			q.Set(key, values[0])
		}
	}
	if value != "" {
		q.Set(name, value)
	}
	if len(q) == 0 {
		return template.URL(v.URL.EscapedPath()) // it is the page's own
	}
	return template.URL(v.URL.EscapedPath() + "?" + q.Encode()) // it is the page's own, and encoded
}
