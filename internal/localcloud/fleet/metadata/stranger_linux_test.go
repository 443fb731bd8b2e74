package metadata_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/difyup/difyup/internal/test/need"
)

// TestMain is also a program that asks a metadata server, and prints what it answers.
func TestMain(m *testing.M) {
	if url := os.Getenv("STRANGER_URL"); url != "" {
		if err := visit(url, os.Getenv("STRANGER_MAPPED") != ""); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func visit(url string, mapped bool) error {
	transport := &http.Transport{DisableKeepAlives: true}
	if mapped {
		transport.DialContext = dialMapped
	}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	fmt.Print(resp.StatusCode, " ", string(raw))
	return err
}

// dialMapped connects a socket of IPv6 to an IPv4 address, as programs do that know IPv6 only.
func dialMapped(_ context.Context, _, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), address)
	defer f.Close()
	if err := syscall.Connect(fd, &syscall.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}

// TestStranger asks as the instance's user and as somebody else, who is refused even what no header is needed for.
func TestStranger(t *testing.T) {
	const uid, another = 1_900_000_001, 1_900_000_002 // nobody's
	need.Root(t, "another user's part can be played by root only")
	var v atomic.Value
	v.Store("demo")
	s := serve(t, &v, uid)
	const refused = "403 This metadata server answers its own instance only.\n"
	for _, q := range []struct{ path, mapped string }{
		{"/", ""}, {"/computeMetadata/v1/instance/service-accounts/default/token", ""}, {"/computeMetadata/v1/instance/attributes/difyup-stack", "1"},
	} {
		for _, as := range []int{0, another, uid} {
			cmd := exec.Command("/proc/self/exe") // whose directory another user may not enter
			cmd.Env = []string{"STRANGER_URL=http://" + s.Addr().String() + q.path, "STRANGER_MAPPED=" + q.mapped}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(as), Gid: uint32(as)}}
			out, err := cmd.CombinedOutput()
			if got := string(out); err != nil || (got == refused) != (as != uid) || as == uid && got[:3] != "200" {
				t.Errorf("user %d, %+v: %v %s", as, q, err, got)
			}
		}
	}
}
