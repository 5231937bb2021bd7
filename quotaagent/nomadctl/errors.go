package nomadctl

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// What an error of this package means, for errors.Is.
var (
	// ErrNotFound: the job or allocation does not exist, or nothing of it runs.
	ErrNotFound = errors.New("not there")
	// ErrConflict: the job is not the one that the caller saw; nothing was changed.
	ErrConflict = errors.New("the job was changed meanwhile")
	// ErrRefused: Nomad understood and said no; nothing was changed.
	ErrRefused = errors.New("nomad refuses")
	// ErrUnknown: no answer, or one that leaves open whether it was done.
	ErrUnknown = errors.New("nomad gave no clear answer")
)

// gone are texts of answers about what no longer runs: Nomad's clients give them
// with status 500.
var gone = [...]string{"not running", "not found", "unknown allocation"}

// unsure are texts of answers with status 500 after which the write may have
// happened: leadership changed, or an answer between servers was lost.
var unsure = [...]string{"leader", "raft", "timeout", "timed out", "eof", "connection", "deadline", "no path to"}

// classify wraps an error of Nomad's client with what it means. what says in
// words what was tried, and is given by the caller: "stop job \"x\"".
func classify(what string, err error) error {
	if err == nil {
		return nil
	}
	var answer api.UnexpectedResponseError
	if !errors.As(err, &answer) || !answer.HasStatusCode() {
		return fmt.Errorf("%s: %w: %w", what, ErrUnknown, err)
	}
	return fmt.Errorf("%s: %w: %w", what, meaning(answer), err)
}

func meaning(answer api.UnexpectedResponseError) error {
	text := strings.ToLower(answer.Body())
	switch status := answer.StatusCode(); {
	case status == http.StatusNotFound:
		return ErrNotFound
	case strings.Contains(text, strings.ToLower(api.RegisterEnforceIndexErrPrefix)):
		return ErrConflict
	case status < http.StatusInternalServerError:
		return ErrRefused
	case status > http.StatusInternalServerError, containsAny(text, unsure[:]):
		return ErrUnknown
	case containsAny(text, gone[:]):
		return ErrNotFound
	}
	return ErrRefused
}

func containsAny(text string, parts []string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
