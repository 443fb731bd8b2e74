package carried

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Name stands for the carried agent where the path of a file is expected. It is not a path that anybody has.
const Name = "(difyup-agent, carried in difyup)"

// The files of an agent in the directory that is embedded.
const (
	About   = "difyup-agent.json" // an Agent
	Program = "difyup-agent.gz"
)

// Limit is the size in bytes that an agent may have: every instance fetches it when it boots.
const Limit = 25e6

//go:embed agent
var files embed.FS

// Agent describes a carried agent.
type Agent struct {
	Platform string `json:"platform"` // what it runs on: "linux/amd64", as Google's instances are
	SHA256   string `json:"sha256"`   // of the program, in hex
	Size     int64  `json:"size"`     // of the program, in bytes

	files fs.FS
}

// Find gives the agent that this program carries, or nil if it was built without one. The program itself is not looked at.
func Find() (*Agent, error) {
	dir, err := fs.Sub(files, "agent")
	if err != nil {
		return nil, err
	}
	return Load(dir)
}

// Load gives the agent in a directory, or nil if there is none.
func Load(dir fs.FS) (*Agent, error) {
	raw, err := fs.ReadFile(dir, About)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the carried agent's description: %w", err)
	}
	a := &Agent{files: dir}
	if err := json.Unmarshal(raw, a); err != nil {
		return nil, fmt.Errorf("read the carried agent's description: %w", err)
	}
	if sum, err := hex.DecodeString(a.SHA256); err != nil || len(sum) != sha256.Size || a.Platform == "" || a.Size <= 0 || a.Size > Limit {
		return nil, fmt.Errorf("read the carried agent's description: it makes no sense: %s. This is a bug in difyup", bytes.TrimSpace(raw))
	}
	return a, nil
}

// Read gives the program. It is an error if it is not the one that the description speaks of.
func (a *Agent) Read() ([]byte, error) {
	program, err := a.read()
	if err != nil {
		return nil, fmt.Errorf("read the carried agent: %w", err)
	}
	return program, nil
}

func (a *Agent) read() ([]byte, error) {
	f, err := a.files.Open(Program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	program := bytes.NewBuffer(make([]byte, 0, a.Size+bytes.MinRead))
	if _, err := io.Copy(program, io.LimitReader(z, a.Size+1)); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(program.Bytes())
	if got := hex.EncodeToString(sum[:]); got != a.SHA256 || int64(program.Len()) != a.Size {
		return nil, fmt.Errorf("its sha256 is %s and not %s: this difyup is damaged, or was not built by `make build`", got, a.SHA256)
	}
	return program.Bytes(), nil
}

// ReadFile gives the contents of a file, or the carried agent for its Name.
func ReadFile(path string) ([]byte, error) {
	if path != Name {
		return os.ReadFile(path)
	}
	a, err := Find()
	if err != nil {
		return nil, err
	}
	if a == nil {
		return nil, errors.New("read the carried agent: this difyup carries none")
	}
	return a.Read()
}
