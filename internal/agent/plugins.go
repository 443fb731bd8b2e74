package agent

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/agent/plugins"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
)

// How long an instance that could take traffic waits for plugins: see plugins.Wait. The daemon gives what one of them needs ten
// minutes to be installed (PYTHON_ENV_INIT_TIMEOUT). All of it is within BootPatience, and "alone" is no shorter than the time
// within which other instances note what runs on them (checkEvery).
const (
	pluginsMost, shortestPluginsMost   = 10 * time.Minute, 30 * time.Second
	pluginsAlone, shortestPluginsAlone = time.Minute, 2 * time.Second
)

func (a *agent) waitForPlugins() plugins.Wait {
	return plugins.Wait{Most: a.scaled(pluginsMost, shortestPluginsMost), Alone: a.scaled(pluginsAlone, shortestPluginsAlone)}
}

// lookAtPlugins compares what is installed with what runs here.
func (a *agent) lookAtPlugins(ctx context.Context, secrets map[string]string) (plugins.State, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*stores.Patience)
	defer cancel()
	o := plugins.Options{Daemon: a.runtime.Address(dify.PluginDaemon), Key: secrets[dify.PluginKey], Client: &http.Client{Transport: &http.Transport{}}, Instance: a.name}
	defer o.Client.CloseIdleConnections()
	var err error
	d := a.settings.Stores.Database
	if o.Plugins, err = a.database(d.PluginName, secrets); err != nil {
		return plugins.State{}, err
	}
	if o.Main, err = a.database(d.Name, secrets); err != nil {
		return plugins.State{}, err
	}
	s, err := plugins.Look(ctx, o)
	return s, hide(err, secrets)
}

// pluginsSeen is what was found of the plugins when they were last looked at.
type pluginsSeen struct {
	look func(context.Context) (plugins.State, error)

	mu   sync.Mutex
	last plugins.State
	said string // in the log, of why they cannot be looked at
}

// why gives for what an instance that could take traffic waits yet, in words; "" = for nothing.
func (p *pluginsSeen) why(ctx context.Context, a *agent, w *plugins.Wait) string {
	now, err := p.look(ctx)
	if ctx.Err() != nil {
		return ""
	}
	if err == nil {
		a.report.plugins(now)
	}
	why := w.For(time.Now(), now, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say(a, err)
	if why != "" {
		return "waits for " + why
	}
	p.last = now
	a.report.warnings(now.Warnings())
	return ""
}

// say logs that the plugins cannot be looked at, once as long as it is for the same reason. p.mu is held.
func (p *pluginsSeen) say(a *agent, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != p.said && text != "" {
		a.log.Warn("which plugins run here cannot be told", "error", text)
	}
	p.said = text
}

// keepLooking looks at the plugins now and then, until ctx ends, also while the instance waits for them: other instances wait
// for what runs here. A plugin that was installed on another instance comes here within half a minute, if it comes; so
// what is missing once is no warning yet.
func (a *agent) keepLooking(ctx context.Context, p *pluginsSeen) {
	for sleep(ctx, a.scaled(checkEvery, time.Second)) == nil {
		now, err := p.look(ctx)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		p.say(a, err)
		if err == nil {
			a.report.plugins(now)
			a.report.warnings(now.Still(p.last).Warnings())
			p.last = now
		}
		p.mu.Unlock()
	}
}
