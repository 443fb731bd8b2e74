package conformance_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/test/need"
)

// exchange is one recorded request and what Google answered.
type exchange struct {
	method, url string
	request     map[string]any
	status      int
	answer      map[string]any
}

// TestRecorded replays recorded exchanges, files named *.http.log in the directory $DIFYUP_RECORDED, against the local
// cloud at $DIFYUP_RECORDED_URL with the token $DIFYUP_RECORDED_TOKEN, and logs where the answers' shapes differ: status, missing fields, fields too many.
// It is a tool for those who change the local cloud, and judges nothing: some recordings were made against a mock.
func TestRecorded(t *testing.T) {
	dir, base := os.Getenv("DIFYUP_RECORDED"), os.Getenv("DIFYUP_RECORDED_URL")
	if dir == "" || base == "" {
		need.Excepted(t, need.Recordings, "DIFYUP_RECORDED and DIFYUP_RECORDED_URL are not set")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.http.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no *.http.log in %s: %v", dir, err)
	}
	for i, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			replay(t, base, fmt.Sprintf("recorded-%d-%d", time.Now().Unix()%100000, i), exchanges(t, file))
		})
	}
}

var (
	variable  = regexp.MustCompile(`\$\{([a-zA-Z]+)\}`)
	operation = regexp.MustCompile(`/operations/\$\{operationID\}`)
)

func replay(t *testing.T, base, project string, all []exchange) {
	lastOperation := ""
	same := 0
	fill := func(s string) string {
		return variable.ReplaceAllStringFunc(s, func(v string) string {
			switch name := v[2 : len(v)-1]; name {
			case "projectId":
				return project
			case "projectNumber":
				return "000000000001"
			case "uniqueId":
				return "u1"
			default:
				return strings.ToLower(strings.TrimSuffix(name, "ID")) + "-1"
			}
		})
	}
	for n, x := range all {
		url := x.url
		if operation.MatchString(url) {
			if lastOperation == "" {
				continue
			}
			url = base + "/" + strings.TrimPrefix(lastOperation, "/")
		} else {
			_, path, _ := strings.Cut(strings.TrimPrefix(fill(url), "https://"), "/")
			url = base + "/" + path
		}
		var body io.Reader
		if x.request != nil {
			raw, err := json.Marshal(x.request)
			if err != nil {
				t.Fatal(err)
			}
			body = strings.NewReader(fill(string(raw)))
		}
		status, answer := call(t, x.method, url, body)
		for deadline := time.Now().Add(2 * time.Minute); operation.MatchString(x.url) && !finished(answer) && time.Now().Before(deadline); {
			select {
			case <-t.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
			status, answer = call(t, x.method, url, nil)
		}
		if link, ok := answer["selfLink"].(string); ok && strings.Contains(link, "/operations/") {
			_, lastOperation, _ = strings.Cut(strings.TrimPrefix(link, "https://"), "/")
		} else if name, ok := answer["name"].(string); ok && answer["done"] == nil && answer["metadata"] != nil && strings.Contains(name, "operations/") {
			lastOperation = "v1/" + name
		}
		var notes []string
		if status != x.status {
			notes = append(notes, fmt.Sprintf("status %d, recorded %d", status, x.status))
		} else {
			notes = shape("", x.answer, answer)
		}
		if len(notes) == 0 {
			same++
			continue
		}
		t.Logf("%d. %s %s\n    %s", n+1, x.method, x.url, strings.Join(notes, "\n    "))
		if status != x.status {
			raw, _ := json.Marshal(answer)
			t.Logf("    answered %.600s", raw)
		}
	}
	t.Logf("%d of %d exchanges alike", same, len(all))
}

func finished(answer map[string]any) bool {
	return answer["status"] == "DONE" || answer["done"] == true
}

func call(t *testing.T, method, url string, body io.Reader) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+os.Getenv("DIFYUP_RECORDED_TOKEN"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	_ = json.Unmarshal(raw, &answer) // an empty answer is one too
	return resp.StatusCode, answer
}

// shape tells which fields one answer has and the other has not, and which constants differ.
func shape(at string, recorded, answered map[string]any) []string {
	var notes []string
	for _, k := range slices.Sorted(maps.Keys(recorded)) {
		r, ok := recorded[k], false
		a, has := answered[k]
		if !has {
			notes = append(notes, fmt.Sprintf("- %s%s = %.80v", at, k, r))
			continue
		}
		switch r := r.(type) {
		case map[string]any:
			var sub map[string]any
			if sub, ok = a.(map[string]any); ok {
				notes = append(notes, shape(at+k+".", r, sub)...)
			}
		case []any:
			var list []any
			if list, ok = a.([]any); ok && len(r) > 0 && len(list) > 0 {
				rm, isMap := r[0].(map[string]any)
				am, also := list[0].(map[string]any)
				if isMap && also {
					notes = append(notes, shape(at+k+"[0].", rm, am)...)
				}
			}
		case string:
			var s string
			s, ok = a.(string)
			if ok && s != r && !strings.Contains(r, "${") && !volatile(k) && strings.ToUpper(r) == r && r != "" {
				notes = append(notes, fmt.Sprintf("~ %s%s = %q, recorded %q", at, k, s, r))
			}
		default:
			ok = fmt.Sprintf("%T", r) == fmt.Sprintf("%T", a)
		}
		if !ok {
			notes = append(notes, fmt.Sprintf("~ %s%s is %T, recorded %T", at, k, a, r))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(answered)) {
		if _, has := recorded[k]; !has {
			notes = append(notes, fmt.Sprintf("+ %s%s = %.80v", at, k, answered[k]))
		}
	}
	return notes
}

func volatile(field string) bool {
	for _, s := range []string{"Time", "time", "imestamp", "id", "Id", "ingerprint", "etag", "address", "IP", "host", "Range", "progress", "status"} {
		if strings.Contains(field, s) {
			return true
		}
	}
	return false
}

// exchanges reads a log: a request line, headers, a body, an answer's status line, headers, a body, three dashes.
func exchanges(t *testing.T, file string) []exchange {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []exchange
	for part := range bytes.SplitSeq(raw, []byte("\n---\n")) {
		lines := bufio.NewScanner(bytes.NewReader(bytes.TrimSpace(part)))
		lines.Buffer(nil, 1<<22)
		var x exchange
		var blocks [2]strings.Builder
		side, inBody := 0, false
		for lines.Scan() {
			line := lines.Text()
			status := regexp.MustCompile(`^(\d{3}) [A-Z]`).FindStringSubmatch(line)
			switch {
			case x.method == "":
				x.method, x.url, _ = strings.Cut(line, " ")
			case side == 0 && status != nil:
				fmt.Sscan(status[1], &x.status)
				side, inBody = 1, false
			case !inBody && strings.HasPrefix(line, "{"):
				inBody = true
				fallthrough
			case inBody:
				blocks[side].WriteString(line + "\n")
			}
		}
		if x.method == "" {
			continue
		}
		_ = json.Unmarshal([]byte(blocks[0].String()), &x.request)
		_ = json.Unmarshal([]byte(blocks[1].String()), &x.answer)
		all = append(all, x)
	}
	return all
}
