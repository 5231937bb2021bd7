package agent

import "github.com/nomad-governor/governor/quotaagent/metrics"

// noticeBoard is what is known of alerts and of who is to be told.
type noticeBoard struct {
	firing  []metrics.Alert
	waiting map[string]int
}
