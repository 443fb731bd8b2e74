package metadata

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/difyup/difyup/internal/sockets"
)

// peerKey is where a connection's context keeps whether its peer is the instance.
type peerKey struct{}

// withPeer has the peer of a connection be looked for once, when it first asks.
func (s *Server) withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, sync.OnceValue(func() error {
		peer, here := c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort()
		uid, err := sockets.UserOf(peer, here)
		if err == nil && uid != s.opts.UID {
			err = fmt.Errorf("%s is a connection of user %d, not of %d", peer, uid, s.opts.UID)
		}
		return err
	}))
}

// known says whether a request is the instance's own: the server listens where every user of the machine can reach it.
func (s *Server) known(r *http.Request) bool {
	check, ok := r.Context().Value(peerKey{}).(func() error)
	if !ok {
		return false
	}
	err := check()
	if err != nil {
		s.opts.Log.Debug("metadata: a stranger was refused", "error", err)
	}
	return err == nil
}
