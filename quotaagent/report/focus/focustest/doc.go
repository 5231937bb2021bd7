// Package focustest checks cost and usage data against the column rules of FOCUS 1.2
// (https://focus.finops.org). Each rule names the page of the specification that it is
// from, as in its folder specification/.
package focustest
