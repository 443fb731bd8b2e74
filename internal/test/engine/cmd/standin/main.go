// Command standin is the program of the images that tests make: the stand-in for the service that its argument, or MODE, names.
// Called as one of the programs that Dify's images have, it does what health checks ask of that.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/difyup/difyup/internal/agent/standin"
	"github.com/difyup/difyup/internal/dify"
)

func main() {
	var err error
	switch filepath.Base(os.Args[0]) {
	case "curl", "node", "python3", "bash":
		err = probe(os.Args[1:])
	case "python":
		err = quiet(os.Args[1:])
	case "try":
		try(os.Args[1:])
	case "storm":
		err = storm(os.Args[1:])
	default:
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		args := os.Args[1:]
		if len(args) > 0 && args[0] == "/app/commandline" { // a program that only the plugin daemon's image has
			args = append([]string{string(dify.PluginDaemon)}, args...)
		}
		err = standin.Main(ctx, args, standin.Options{Env: os.Getenv, Resolver: net.DefaultResolver, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// quiet is dify.Service.Quiet of the worker: it asks the container's first process, and waits until that has nothing in hand.
func quiet(args []string) error {
	var seconds int
	if len(args) == 0 {
		return fmt.Errorf("usage: python ... SECONDS")
	}
	if _, err := fmt.Sscan(args[len(args)-1], &seconds); err != nil {
		return err
	}
	if err := syscall.Kill(1, syscall.SIGUSR1); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 10 * seconds {
		if _, err := os.Stat(standin.Idle); err == nil {
			return nil
		}
		<-tick.C
	}
	return fmt.Errorf("tasks are still in hand")
}

// try does what a container that was taken over would: each argument is a way to somewhere (tcp:HOST:PORT, udp:HOST:PORT, unix:PATH,
// name:HOST, raw: for a socket that sends and sees whole packets), and a line says whether there was an answer, or why there was none. names:HOST
// is answered with how long it takes to look it up.
func try(ways []string) {
	results, all := make([]string, len(ways)), sync.WaitGroup{}
	for i, w := range ways {
		all.Go(func() {
			results[i] = "reached"
			if err := reach(w); err != nil {
				results[i] = err.Error()
			}
		})
	}
	all.Wait()
	for i, w := range ways {
		fmt.Printf("%s: %s\n", w, results[i])
	}
}

// storm has the container write lines, so many megabytes a second for so many seconds, and says how many there were. Where that is too much
// for the machine, it writes less, but a tenth however long it takes.
func storm(args []string) error {
	var rate, seconds int
	if len(args) != 2 {
		return fmt.Errorf("usage: storm MEGABYTES SECONDS")
	}
	for i, into := range []*int{&rate, &seconds} {
		if _, err := fmt.Sscan(args[i], into); err != nil {
			return err
		}
	}
	out, err := os.OpenFile("/proc/1/fd/1", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	const parts = 50 // a second
	line := strings.Repeat("x", 99) + "\n"
	text := []byte(strings.Repeat(line, rate*1e6/parts/len(line)))
	lines, tick := 0, time.NewTicker(time.Second/parts)
	defer tick.Stop()
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	for all := seconds * parts * len(text) / len(line); lines < all && (time.Now().Before(end) || lines < all/10); {
		n, err := out.Write(text)
		lines += n / len(line)
		if err != nil {
			return err
		}
		<-tick.C
	}
	fmt.Println(lines)
	return nil
}

// lookups says how long it takes to look up a name again and again.
func lookups(host string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	took, tick := make([]time.Duration, 100), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for i := range took {
		began := time.Now()
		if _, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host); err != nil {
			return err
		}
		took[i] = time.Since(began).Round(10 * time.Microsecond)
		<-tick.C
	}
	slices.Sort(took)
	return fmt.Errorf("median %s, 90 of 100 within %s, all within %s", took[49], took[89], took[99])
}

func reach(way string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	network, to, _ := strings.Cut(way, ":")
	if network == "name" {
		_, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", to)
		return err
	}
	if network == "names" {
		return lookups(to)
	}
	if network == "raw" {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_RAW)
		if err == nil {
			err = syscall.Close(fd)
		}
		return err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, to)
	if err != nil {
		return err
	}
	defer c.Close()
	if network != "udp" {
		return nil
	}
	end, _ := ctx.Deadline()
	if err = c.SetDeadline(end); err == nil {
		_, err = c.Write([]byte("?"))
	}
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	return err
}

var (
	page = regexp.MustCompile(`http://[0-9.]+:[0-9]+[-/a-z_.]*`)
	port = regexp.MustCompile(`/dev/tcp/(127\.0\.0\.1)/([0-9]+)`)
)

// probe asks what the arguments of a health check ask.
func probe(args []string) error {
	client := &http.Client{Timeout: 4 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, a := range args {
		if url := page.FindString(a); url != "" {
			resp, err := client.Get(url)
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode >= 400 {
				return fmt.Errorf("%s answers %s", url, resp.Status)
			}
			return nil
		}
		if m := port.FindStringSubmatch(a); m != nil {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(m[1], m[2]), 4*time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		}
	}
	return fmt.Errorf("nothing to ask in %q", args)
}
