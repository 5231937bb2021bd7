package gate

import (
	"net/http"
	"strings"
	"testing"

	"github.com/shoenig/test/must"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	cases := map[string]Route{
		"PUT /v1/jobs":                                  {Kind: RouteRegister},
		"POST /v1/jobs":                                 {Kind: RouteRegister},
		"GET /v1/jobs":                                  {Kind: RouteRead},
		"PUT /v1/jobs/":                                 {Kind: RouteUnknownWrite},
		"PATCH /v1/jobs":                                {Kind: RouteUnknownWrite},
		"PUT /v1/job/web":                               {Kind: RouteRegister, JobID: "web"},
		"POST /v1/job/team/web":                         {Kind: RouteRegister, JobID: "team/web"},
		"POST /v1/job/web/":                             {Kind: RouteRegister, JobID: "web/"},
		"POST /v1/job/":                                 {Kind: RouteRegister},
		"POST /v1/job/plan":                             {Kind: RouteRegister, JobID: "plan"},
		"POST /v1/job//plan":                            {Kind: RoutePlan},
		"POST /v1/job/web/plan":                         {Kind: RoutePlan, JobID: "web"},
		"POST /v1/job/web/plan/plan":                    {Kind: RoutePlan, JobID: "web/plan"},
		"POST /v1/job/web/plan/":                        {Kind: RouteRegister, JobID: "web/plan/"},
		"POST /v1/job/web/Plan":                         {Kind: RouteRegister, JobID: "web/Plan"},
		"POST /v1/job/web/scale":                        {Kind: RouteScale, JobID: "web"},
		"GET /v1/job/web/scale":                         {Kind: RouteRead, JobID: "web"},
		"POST /v1/job/web/dispatch":                     {Kind: RouteDispatch, JobID: "web"},
		"PUT /v1/job/web/dispatch/payload":              {Kind: RouteDispatchPayload, JobID: "web"},
		"POST /v1/job/web/periodic/force":               {Kind: RoutePeriodicForce, JobID: "web"},
		"POST /v1/job/web/revert":                       {Kind: RouteRevert, JobID: "web"},
		"POST /v1/job/web/evaluate":                     {Kind: RouteWrite, JobID: "web"},
		"POST /v1/job/web/stable":                       {Kind: RouteStable, JobID: "web"},
		"POST /v1/job/web/versions/x/tag":               {Kind: RouteWrite, JobID: "web/versions/x"},
		"DELETE /v1/job/web/versions/x/tag":             {Kind: RouteWrite, JobID: "web/versions/x"},
		"POST /v1/job/web/summary":                      {Kind: RouteRead, JobID: "web"},
		"GET /v1/job/web/action":                        {Kind: RouteRead, JobID: "web"},
		"DELETE /v1/job/team/web":                       {Kind: RouteWrite, JobID: "team/web"},
		"DELETE /v1/job/web/scale":                      {Kind: RouteUnknownWrite, JobID: "web"},
		"PATCH /v1/job/web":                             {Kind: RouteUnknownWrite, JobID: "web"},
		"PUT /v1/validate/job":                          {Kind: RouteValidate},
		"POST /v1/jobs/parse":                           {Kind: RouteRead},
		"POST /v1/jobs/statuses":                        {Kind: RouteRead},
		"POST /v1/search":                               {Kind: RouteRead},
		"POST /v1/search/fuzzy":                         {Kind: RouteRead},
		"PUT /v1/allocation/x/stop":                     {Kind: RouteWrite},
		"PUT /v1/allocation/x/clone":                    {Kind: RouteUnknownWrite},
		"POST /v1/client/allocation/x/restart":          {Kind: RouteWrite},
		"POST /v1/client/allocation/x/launch":           {Kind: RouteUnknownWrite},
		"PUT /v1/node/x/drain":                          {Kind: RouteWrite},
		"POST /v1/node/pool/x":                          {Kind: RouteWrite},
		"POST /v1/deployment/promote/x":                 {Kind: RouteWrite},
		"PUT /v1/operator/snapshot":                     {Kind: RouteWrite},
		"PUT /v1/acl/token":                             {Kind: RouteWrite},
		"PUT /v1/var/nomad/jobs/x":                      {Kind: RouteWrite},
		"PUT /v1/system/gc":                             {Kind: RouteWrite},
		"POST /v1/future/thing":                         {Kind: RouteUnknownWrite},
		"DELETE /v1/future/thing":                       {Kind: RouteUnknownWrite},
		"GET /v1/future/thing":                          {Kind: RouteRead},
		"POST /v1":                                      {Kind: RouteUnknownWrite},
		"GET /v1":                                       {Kind: RouteOutside},
		"POST /ui/jobs":                                 {Kind: RouteOutside},
		"GET /":                                         {Kind: RouteOutside},
		"GET /v1/event/stream":                          {Kind: RouteRead},
		"OPTIONS /v1/jobs":                              {Kind: RouteRead},
		"HEAD /v1/job/web":                              {Kind: RouteRead, JobID: "web"},
		"GET /v1/client/allocation/x/restart":           {Kind: RouteWrite},
		"GET /v1/client/gc":                             {Kind: RouteWrite},
		"POST /v1/client/fs/cat/x":                      {Kind: RouteRead},
		"DELETE /v1/job/web/summary":                    {Kind: RouteRead, JobID: "web"},
		"put /v1/jobs":                                  {Kind: RouteUnknownWrite},
		"GET /v1/client/allocation/x/exec":              {Kind: RouteRead},
		"PUT /v1/volume/host/create":                    {Kind: RouteWrite},
		"PUT /v1/operator/scheduler/configuration":      {Kind: RouteWrite},
		"POST /v1/operator/scheduler/configuration/new": {Kind: RouteUnknownWrite},
	}
	for request, want := range cases {
		method, path, _ := strings.Cut(request, " ")
		must.Eq(t, want, Classify(method, path), must.Sprint(request))
	}
}

func FuzzClassifyAnyPath(f *testing.F) {
	f.Add("POST", "/v1/jobs")
	f.Add("PUT", "/v1/jobs/parse")
	f.Add("POST", "/v1/future")
	f.Fuzz(func(t *testing.T, method, path string) {
		got := Classify(method, path)
		// A write below /v1/ that is not on a list never passes as something
		// harmless.
		write := method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
		_, whatever := ofAnyMethod(path)
		known := whatever || readsByPost[path] || isKnownWrite(path) || strings.HasPrefix(path, "/v1/job/")
		if write && strings.HasPrefix(path, "/v1/") && !known && path != "/v1/jobs" && path != "/v1/validate/job" {
			must.EqOp(t, RouteUnknownWrite, got.Kind)
		}
		if !write && (got.Kind.governed() || got.Kind.ofStored()) {
			t.Fatalf("%s %s is a read, got %s", method, path, got.Kind)
		}
	})
}
