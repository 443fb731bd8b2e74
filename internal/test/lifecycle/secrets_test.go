//go:build linux

package lifecycle

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/test/cloud"
)

// checker is what reports a failure: *testscript.TestScript or a wrapper of *testing.T.
type checker interface{ Check(err error) }

// secretsOf reads the values of a project's secrets.
func secretsOf(c checker, i *localcloud.Info, project string) map[string]string {
	var list struct{ Secrets []struct{ Name string } }
	read(c, i, "v1/projects/"+project+"/secrets", &list)
	out := map[string]string{}
	for _, s := range list.Secrets {
		var version struct{ Payload struct{ Data string } }
		read(c, i, "v1/"+s.Name+"/versions/latest:access", &version)
		value, err := base64.StdEncoding.DecodeString(version.Payload.Data)
		c.Check(err)
		if len(value) < 16 {
			c.Check(fmt.Errorf("%s has %d characters", s.Name, len(value)))
		}
		out[s.Name] = string(value)
	}
	return out
}

func read(c checker, i *localcloud.Info, path string, out any) {
	code, raw, err := cloud.Get(context.Background(), i, path)
	c.Check(err)
	if code != http.StatusOK {
		c.Check(fmt.Errorf("%s: %d", path, code))
	}
	c.Check(json.Unmarshal(raw, out))
}
