package compose

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// guard keeps an nftables table of ours on the machine, which says what containers may reach: see Guard.
type guard struct {
	nft    []string
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	file   string // where the table is kept, for the engine's start: see GuardFile
	log    *slog.Logger

	mu       sync.Mutex                 // held while the machine's table is looked at or replaced
	services map[dify.Name]dify.Service // that were said, each as it was last
	known    map[string][]netip.Addr    // the last addresses of stores' names, also before this process
	text     string                     // of the table that was set up last; "" = none was
	listed   string                     // what nft said of it then
	saved    string                     // the text of the table that is in the file
}

const guardTable = "difyup"

// GuardFile is the name of the file in Options.Dir in which the last table is kept, as a script for nft. The engine starts
// containers by itself that ran when the machine was cut off, whatever their restart policy is: before it does, it is to be loaded.
const GuardFile = "guard.nft"

// way is a store's address for one container.
type way struct {
	from netip.Addr
	to   netip.AddrPort
}

// Guard gives the script for nft that replaces our table as a whole, in one step: what the containers of services reach beside each
// other, with stores at the addresses that their names have. The table looks at all that comes in by the bridges of the project, and
// at what is forwarded to them. To accept here is not to accept in the tables of others; to refuse is final, whatever those say.
//
// What goes in the direction in which a connection was begun is judged, and not only when it begins; answers are let through.
//
// Its first lines say where stores are, for recall.
func Guard(services []dify.Service, at map[string][]netip.Addr) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	elements := func(all []string) string { return "{ " + strings.Join(all, ", ") + " }" }
	var same, asks, near []string
	subnets := dify.Subnets()
	for _, n := range slices.Sorted(maps.Keys(subnets)) {
		if n != "docker0" {
			same = append(same, fmt.Sprintf("%q . %q", bridge(n), bridge(n)))
		}
	}
	for _, s := range dify.Names() {
		if n := s.Ask(); n != "" {
			at := identityAt(n)
			asks = append(asks, fmt.Sprintf("%q . %s . %d", bridge(n), at.Addr(), at.Port()))
		}
	}
	for _, r := range forbidden() {
		if netip.MustParsePrefix(r).Addr().Is4() {
			near = append(near, r)
		}
	}
	line("# Written by difyup's agent, which puts it back.")
	for _, host := range hosts(services) {
		if len(at[host]) > 0 {
			line("%s%q %s", storeMark, host, strings.Trim(fmt.Sprint(slices.SortedFunc(slices.Values(at[host]), netip.Addr.Compare)), "[]"))
		}
	}
	line("table inet %s {}", guardTable)
	line("delete table inet %s", guardTable)
	line("table inet %s {", guardTable)
	line("	set stores {")
	line("		type ipv4_addr . ipv4_addr . inet_service")
	if open := ways(services, at); len(open) > 0 {
		var all []string
		for _, w := range open {
			all = append(all, fmt.Sprintf("%s . %s . %d", w.from, w.to.Addr(), w.to.Port()))
		}
		line("		elements = %s", elements(all))
	}
	line("	}")
	line("	chain refuse {")
	line("		meta l4proto tcp reject with tcp reset")
	line("		reject")
	line("	}")
	// From a container to another machine, or to another container.
	line("	chain leaves {")
	line("		iifname . oifname %s accept", elements(same))
	// The VPC's name server has the metadata server's address, and Docker asks it from inside the container's network.
	line("		ip daddr 169.254.169.254 meta l4proto { tcp, udp } th dport 53 accept")
	line("		iifname %q ip saddr . ip daddr . tcp dport @stores accept", bridge(dify.Outward))
	line("		iifname != %q goto refuse", bridge(dify.Outward))
	line("		meta nfproto ipv6 goto refuse")
	line("		ip daddr %s goto refuse", elements(near))
	line("		accept")
	line("	}")
	line("	chain forward {")
	line("		type filter hook forward priority filter - 10; policy accept;")
	line("		ct direction reply accept")
	line("		iifname \"difyup-*\" goto leaves")
	// Nobody forwards to containers; what they serve, the machine itself asks for.
	line("		oifname \"difyup-*\" goto refuse")
	line("	}")
	// To the machine itself, by any of its addresses.
	line("	chain input {")
	line("		type filter hook input priority filter - 10; policy accept;")
	line("		iifname != \"difyup-*\" accept")
	line("		ct direction reply accept")
	line("		iifname . ip daddr . tcp dport %s accept", elements(asks))
	line("		iifname %q ip saddr %s ip daddr %s tcp dport %d accept", bridge(dify.Outward), outwardAt(dify.WorkerBeat, false), machineAt, dify.RelayPort)
	line("		goto refuse")
	line("	}")
	line("}")
	return b.String()
}

// storeMark begins a line of the table's that says where a store is; for nft it is a comment.
const storeMark = "# store "

// recall gives the addresses of stores' names that Guard made a table of.
func recall(table string) map[string][]netip.Addr {
	at := map[string][]netip.Addr{}
	for text := range strings.Lines(table) {
		rest, ok := strings.CutPrefix(text, storeMark)
		words := strings.Fields(rest)
		if !ok || len(words) == 0 {
			continue
		}
		host, err := strconv.Unquote(words[0])
		if err != nil {
			continue
		}
		for _, w := range words[1:] {
			if a, err := netip.ParseAddr(w); err == nil {
				at[host] = append(at[host], a)
			}
		}
	}
	return at
}

// hosts gives the names of services' stores.
func hosts(services []dify.Service) (all []string) {
	for _, s := range services {
		for _, store := range s.Near {
			if host, _, err := net.SplitHostPort(store); err == nil {
				all = append(all, host)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// ways gives which containers, and jobs, connect to which store, by the addresses of the stores' names.
func ways(services []dify.Service, at map[string][]netip.Addr) (all []way) {
	for _, s := range services {
		for _, store := range s.Near {
			host, port, err := net.SplitHostPort(store)
			if err != nil {
				continue // an address without a port leads nowhere
			}
			for _, a := range at[host] {
				to, err := netip.ParseAddrPort(net.JoinHostPort(a.Unmap().String(), port))
				if err != nil || !to.Addr().Is4() || to.Addr().IsLinkLocalUnicast() { // the metadata server is no store, whatever a name says
					continue
				}
				for _, job := range []bool{false, true} {
					if from := outwardAt(s.Name, job); from.IsValid() {
						all = append(all, way{from, to})
					}
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b way) int { return cmp.Or(a.from.Compare(b.from), a.to.Compare(b.to)) })
	return slices.Compact(all)
}

// find asks where the stores of services are, of all at the same time: one whose name is not answered for takes no time from the others.
// One whose name leads nowhere now is where it was.
func (g *guard) find(ctx context.Context, services []dify.Service) {
	var (
		mu  sync.Mutex
		all sync.WaitGroup
	)
	for _, host := range hosts(services) {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			found, err := g.lookup(ctx, host)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			g.known[host] = found
		})
	}
	all.Wait()
}

// set has the machine have the guard for services, besides those that were said before: after it, no container of the project's
// reaches more. Where all is as it was, nothing is done but to look.
func (g *guard) set(ctx context.Context, services []dify.Service) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.services == nil {
		g.services = map[dify.Name]dify.Service{}
		// Of an agent before this one, whose containers may run. Without it, nothing is known.
		before, _ := os.ReadFile(g.file)
		g.saved, g.known = string(before), recall(string(before))
	}
	for _, s := range services {
		g.services[s.Name] = s
	}
	said := slices.Collect(maps.Values(g.services))
	g.find(ctx, said)
	text := Guard(said, g.known)
	now, err := g.list(ctx)
	if err != nil {
		return err
	}
	if text == g.text && now == g.listed {
		return g.save(text)
	}
	listed, err := g.write(ctx, text)
	if err != nil {
		return fmt.Errorf("set up the rules for what containers may reach: %w", err)
	}
	switch {
	case g.text == "" || now == g.listed:
	case now == "":
		g.log.Warn("somebody removed the rules for what containers may reach; they are put back", "table", "inet "+guardTable)
	default:
		g.log.Warn("somebody changed the rules for what containers may reach; they are put back", "table", "inet "+guardTable)
	}
	g.text, g.listed = text, listed
	return g.save(text)
}

// errNotSaved says that the rules hold, and would not after the machine was cut off.
var errNotSaved = errors.New("keep the rules for what containers may reach on the disk")

// write sets up the table of text, and gives what nft says of it. Between the two somebody else may change the table, and what is said
// then would pass for ours ever after: it is ours when it is said twice, of what was set up twice.
func (g *guard) write(ctx context.Context, text string) (listed string, err error) {
	for range 5 {
		if _, err := g.run(ctx, text, "-f", "-"); err != nil {
			return "", err
		}
		before := listed
		if listed, err = g.list(ctx); err != nil {
			return "", err
		}
		if listed != "" && listed == before {
			return listed, nil
		}
	}
	return "", errors.New("somebody keeps changing them: is there another program that manages nftables on this machine?")
}

// save keeps the table on the disk, whole whenever the machine is cut off.
func (g *guard) save(text string) error {
	if text == g.saved {
		return nil
	}
	err := os.MkdirAll(filepath.Dir(g.file), 0o700)
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(g.file+".next", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(f.Name(), g.file)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNotSaved, err)
	}
	g.saved = text
	return nil
}

// keep has the guard be there, and know where the stores are, until the function that it gives is called.
func (g *guard) keep(ctx context.Context, services []dify.Service, look time.Duration) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(look)
		defer tick.Stop()
		for said := ""; ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := g.set(ctx, services)
			switch {
			case err == nil:
				said = ""
			case ctx.Err() == nil && err.Error() != said:
				said = err.Error()
				if errors.Is(err, errNotSaved) {
					g.log.Error("what containers may reach is guarded until the machine is cut off", "error", err)
				} else {
					g.log.Error("what containers may reach is not guarded", "error", err)
				}
			}
		}
	}()
	return func() { cancel(); <-over }
}

// list gives our table as the machine has it, "" if it has none.
func (g *guard) list(ctx context.Context) (string, error) {
	out, err := g.run(ctx, "", "--stateless", "list", "table", "inet", guardTable)
	if err != nil && strings.Contains(err.Error(), "No such file or directory") {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look at the rules for what containers may reach: %w", err)
	}
	return out, nil
}

// run runs nft.
func (g *guard) run(ctx context.Context, script string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, short)
	defer cancel()
	var out bytes.Buffer
	var said runtime.Tail
	cmd := exec.CommandContext(ctx, g.nft[0], append(slices.Clone(g.nft[1:]), args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), &out, &said
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("there is no program %s on this machine", g.nft[0])
	}
	if err != nil {
		return "", fmt.Errorf("nft: %w: %s", err, oneLine(said.String()))
	}
	return out.String(), nil
}
