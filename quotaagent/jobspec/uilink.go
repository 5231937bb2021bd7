package jobspec

import "errors"

// AddUILink adds a link to the ui block of the job in a register, plan or validate
// document, behind those that are there. The description and the other links stay.
func AddUILink(doc *Document, label, url string) error {
	job := doc.root.field("Job")
	if job == nil || job.kind != '{' {
		return errors.New("the document has no Job object")
	}
	ui := job.field("UI")
	if ui == nil || ui.isNull() {
		ui = object()
		job.setField("UI", ui)
	}
	if ui.kind != '{' {
		return errors.New("UI is not an object")
	}
	links, err := ui.list("Links")
	if err != nil {
		return err
	}
	links.items = append(links.items, object(pair("Label", stringNode(label)), pair("Url", stringNode(url))))
	return nil
}
