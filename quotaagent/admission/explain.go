package admission

import "github.com/nomad-governor/governor/quotaagent/budget"

// Explanation says what a reason means and what to do about it, in the words of
// docs/reasons.md; a test compares the two.
type Explanation struct {
	// Meaning is what the reason says of the job.
	Meaning string
	// Author is what the author of the job does about it, Operator what who runs
	// Governor does.
	Author, Operator string
}

// Explain is the explanation of a reason; a zero one for a code that is none.
func (r Reason) Explain() Explanation { return explanations()[r] }

// Source is where what decided is set: the limit that binds or whose soft mark is passed,
// else the budget; zero where neither is known.
func (d Decision) Source() budget.Source {
	switch {
	case d.Refusal == nil && len(d.Failed) > 0:
		return d.Failed[0].Source
	case d.Refusal == nil && d.Soft != nil:
		return d.Soft.Source
	case d.Budget != nil:
		return d.Budget.Source
	}
	return budget.Source{}
}

func explanations() map[Reason]Explanation {
	return map[Reason]Explanation{
		Unmatched:          {"No budget claims the job's namespace and submitter, and the policy denies such jobs.", "Submit in a namespace, or with a token, that a budget matches.", "Add a match block to a budget, or set unmatched = \"allow\"."},
		AmbiguousMatch:     {"Budgets on several paths claim the job.", "Pick one of those listed with meta { governor_budget = \"...\" }.", "Make the match blocks differ; governor budget validate names the pairs."},
		BudgetNotAllowed:   {"The job's meta names a budget that does not claim it.", "Name one of the budgets listed, or none.", "Extend that budget's match block if the author should be in it."},
		MatchFailed:        {"The condition (when) of a match block cannot be evaluated for the job, for example because it compares text with a number.", "Give the job what the condition asks for; the answer says which.", "Correct the condition: coalesce gives a value to meta that a job may lack."},
		UndeclaredGPU:      {"A task can reach GPUs without asking for devices, or others than those it was given: a privileged container, /dev/nvidia*, the nvidia runtime, an own value of NVIDIA_VISIBLE_DEVICES.", "Ask with a device block, and remove what the first line names.", "Allow it in a budget for those who may."},
		NoClass:            {"A device that the job asks for is in no gpu_class, so it has neither a limit nor a price.", "Ask for one of the devices listed.", "Add the device's full name (nomad node status -verbose) to a gpu_class."},
		NoPrice:            {"A GPU class has no price now, or on a rate card that takes over while the job may run, or a language model has none, and some budget limits cost.", "Ask for GPUs of another class; name the model as the rate card does.", "Add the class or the model to every rate_card from now on."},
		NoWatts:            {"Nothing bounds the power of a GPU class, and the budget or one above it limits energy.", "Ask for GPUs of another class.", "Set watts in the gpu_class."},
		RuntimeUnknown:     {"A batch job has no bound on its run time, or one that cannot be read.", "Set meta { governor_max_runtime = \"2h\" }.", "Set per_job { default_runtime = ... } in the budget."},
		NodesUnknown:       {"A system or sysbatch job runs on every node that can serve it, and Nomad could not be asked how many those are.", "Submit it again shortly.", "Look at the agent's log: it must be able to read nodes."},
		TooManyAllocations: {"The job may have more than 5,000 allocations with GPUs at once, which cannot be tracked.", "Split it into several jobs.", "Nothing."},
		AssertionFailed:    {"An assert of the policy, a rule for every GPU job, does not hold for this one; the first line is its message.", "Do what the message says.", "Change the assert at the file and line shown if the rule is wrong."},
		ModelNotPinned:     {"An assert does not hold because a device block leaves open which GPU model it gets.", "Name the model: device \"nvidia/gpu/<model>\".", "Change the assert at the file and line shown if the model may stay open."},
		PlacementUnknown:   {"The job's meta governor_placement is not one of the modes.", "Write require, prefer or off, or leave it out.", "Nothing."},
		GangUnknown:        {"The job's meta governor_gang or governor_gang_timeout cannot be understood, or it cannot be a gang: a template, a system job, a job of no budget.", "Do what the answer says, or leave the meta out.", "Give jobs of no budget one; it need not limit anything."},
		RunRequired:        {"The budget serves agent runs only (per_run), and the job names no open run.", "Open a run, and submit the job with its id.", "Take per_run out of the budget if jobs outside runs are meant to draw from it."},
		Infeasible:         {"No node could ever serve the job: too many GPUs for any node, or a model that none has.", "Ask for GPUs that a node has, or split the job into more groups.", "Add the node or model if the ask is right; nomad node status -verbose shows what there is."},
		ExceedsJobCap:      {"The job is larger than a per_job bound of its budget or of one above it.", "Ask for fewer GPUs or a shorter run.", "Raise the per_job bound at the file and line shown."},
		ExceedsRunCap:      {"The job needs more than its agent run has left: money, GPU time, jobs, or jobs at once; or the run is over.", "Ask for less, wait until the run's other jobs end, or open another run.", "Raise per_run at the file and line shown."},
		Frozen:             {"The limit is zero: the budget admits nothing new. Running work goes on.", "Use another budget, or ask the owner of this one.", "Raise the limit at the file and line shown when the freeze is over."},
		ExceedsBudget:      {"The job needs more than the whole limit, so waiting never helps.", "Ask for fewer GPUs or a shorter run.", "Raise the limit at the file and line shown."},
		BudgetExhausted:    {"What was used in this period has reached the limit.", "Wait for the period shown, or ask the budget's owner.", "Raise the limit, or leave it: it did what it is for."},
		InsufficientBudget: {"The job fits the limit, but not beside what is used and held now.", "Wait for the period shown or for other jobs to end, or ask for less.", "Look at governor budget status for what is held; raise the limit if need be."},
		CommittedTooFar:    {"Too much is promised to running and waiting jobs and not used yet (max_committed).", "Wait until other jobs of the budget have run, or ask for less.", "Raise max_committed, or look for jobs that hold far more than they use."},
		ConcurrencyLimit:   {"Too many GPUs would be held at the same time.", "Wait until other jobs of the budget end, or ask for fewer GPUs.", "Raise concurrent { gpus }, or stop idle jobs."},
		WaitingForReclaim:  {"The GPUs are within the budget's own, but members of its cohort have borrowed them.", "Wait: they are given back as work ends or is reclaimed.", "Lower lend, or look at reclaim of the budget."},
		WaitingForApproval: {"The override that the submission asks for needs approvals that were not given yet.", "Ask somebody whom the override names to approve it, then submit again.", "Look at the request with governor override list, and approve or refuse it."},
		WaitingTurn:        {"The job fits, but jobs that were submitted before it wait for the same budget, and it would delay them.", "Wait: governor queue list shows its place.", "Look at queue { order } of the budget."},
		GangWaits:          {"The job is a gang (governor_gang), and not all of its allocations fit into the cluster now. It is registered and waits, whatever its budget says of queues; it is refused only where it may not wait.", "Wait: governor queue list shows how much of it fits. Or ask for fewer allocations or GPUs, or leave out governor_queue = \"no\".", "governor topology shows who has the GPUs."},
		PlannedForGang:     {"The GPUs that the job could have are set aside for a gang that has waited for long, and it may not be over when that starts. It is registered and waits, whatever its budget says of queues; it is refused only where it may not wait.", "Wait, or give it a governor_max_runtime that ends before the gang starts, or ask for GPUs of another class.", "governor queue list shows the gang, what is set aside for it, and when it starts; placement { gang_plan_after } says how soon that is done."},
		QueueTimeout:       {"The job waited for budget as long as its queue allows, and was given up.", "Submit it again, or ask for less.", "Raise queue { timeout }, or the limit that the job waited for."},
		OverBudget:         {"A budget is overdrawn, and its rule ends or throttles running work.", "Submit again in the next period, or ask for the limit to be raised.", "Look at over_budget { running }, and raise the limit to cancel a stop before its grace is over."},
		MaxRuntime:         {"An allocation ran as long as its job was admitted for.", "Ask for more with meta { governor_max_runtime = \"4h\" }, and save checkpoints when the signal comes.", "Look at per_job { max_runtime, default_runtime } of the budget."},
		MaxIdle:            {"All GPUs of the job were held without being used.", "End jobs that are done, or ask for fewer GPUs.", "Look at max_idle of the budget."},
		Reclaimed:          {"The job ran on GPUs that its budget had borrowed, and their owner wants them back.", "Submit it again: it waits until there are GPUs to borrow.", "Look at reclaim and priority of the budgets."},
		RunExpired:         {"The agent run of the job was closed, or its time is over.", "Open a new run.", "Look at per_run { wall_clock } of the budget."},
		RunExhausted:       {"The agent run of the job has used up one of its caps.", "Open a new run, with larger caps if the budget allows.", "Look at per_run of the budget."},
		JobWaits:           {"The request (scale, revert) would change a job that waits for budget: Nomad would make it from what is registered, which does not start.", "Change the job file and run it again; governor queue list shows its place.", "Nothing."},
		RegionNotGoverned:  {"The job asks for GPUs in a Nomad region without Governor.", "Submit it to that region's Governor.", "Run Governor in that region."},
		UnknownRoute:       {"A write to Nomad's API that this release does not know.", "Use a documented command.", "Update Governor; if the endpoint is harmless, let unknown writes pass in the agent's configuration."},
		LedgerUnavailable:  {"No decision is possible: budgets or balances cannot be read or written. Jobs without GPUs and running work are not affected.", "Try again later.", "Look at Consul (quorum, ACL) and at the agent's log."},
		Fits:               {"The worst case fits every limit.", "Nothing.", "Nothing."},
		SoftLimit:          {"The job fits, but the budget is past its soft mark, so it will soon be full; it borrows no more.", "Nothing, or ask for less.", "Look whether the period will last; raise the limit in time."},
		FitsWithWarning:    {"The job is over a limit whose budget says admit = \"warn\".", "Nothing; the owner of the budget sees it.", "Look whether the limit or the use is wrong."},
		Ungoverned:         {"No budget claims the job, and the policy allows that. It is neither held nor priced.", "Nothing.", "Add a budget that claims it, or set unmatched = \"deny\"."},
	}
}
