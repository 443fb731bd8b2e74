package gcp

import (
	"context"
	"crypto/rand"
	"fmt"
	"math/big"
	"time"
)

// Backoff gives the wait before try number try (from 0): doubling from first to most, with up to a third of jitter.
func Backoff(try int, first, most time.Duration) time.Duration {
	d := most
	if try < 20 {
		d = min(first<<try, most)
	}
	n, err := rand.Int(rand.Reader, big.NewInt(int64(d)/3+1))
	if err != nil {
		return d
	}
	return d - time.Duration(n.Int64())
}

// Sleep waits for d or until ctx ends, whose cause it returns then.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
