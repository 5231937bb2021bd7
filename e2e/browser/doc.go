// Package browser looks at web pages in a real, headless Chromium: it waits
// for texts and selectors, reports what the page logged as errors, and saves a
// picture of each page. Where that is asked for, axe-core looks for what keeps people
// from using a page. The browser is driven by shot.mjs beside this file; install.sh
// installs what it needs.
package browser
