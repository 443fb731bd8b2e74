//go:build linux

package lifecycle

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
)

// checker is what reports a failure: *testscript.TestScript or a wrapper of *testing.T.
type checker interface{ Check(err error) }

// secretsOf reads the values of a project's secrets.
func secretsOf(c checker, url, project string) map[string]string {
	var list struct{ Secrets []struct{ Name string } }
	read(c, url+"v1/projects/"+project+"/secrets", &list)
	out := map[string]string{}
	for _, s := range list.Secrets {
		var version struct{ Payload struct{ Data string } }
		read(c, url+"v1/"+s.Name+"/versions/latest:access", &version)
		value, err := base64.StdEncoding.DecodeString(version.Payload.Data)
		c.Check(err)
		if len(value) < 16 {
			c.Check(fmt.Errorf("%s has %d characters", s.Name, len(value)))
		}
		out[s.Name] = string(value)
	}
	return out
}

func read(c checker, url string, out any) {
	resp, err := http.Get(url)
	c.Check(err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		c.Check(fmt.Errorf("%s: %s", url, resp.Status))
	}
	c.Check(json.NewDecoder(resp.Body).Decode(out))
}
