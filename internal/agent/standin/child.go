package standin

import (
	"context"
	"io"
	"os/exec"
	"runtime"
	"time"
)

// runChild runs a program until it ends or ctx does; then it is asked to end, and after grace, or when hard ends, made to. It
// dies with this process where the system can do that. started is told the process's ID; nil = nobody is.
func runChild(ctx, hard context.Context, grace time.Duration, program string, args, env []string, out io.Writer, started func(pid int)) error {
	// The kernel's signal at a parent's death is bound to the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, out, out
	cmd.SysProcAttr = dieWithParent()
	cmd.Cancel = func() error { return terminate(cmd.Process) }
	cmd.WaitDelay = grace
	if err := cmd.Start(); err != nil {
		return err
	}
	if started != nil {
		started(cmd.Process.Pid)
	}
	stop := context.AfterFunc(hard, func() { _ = cmd.Process.Kill() }) // it may be gone
	defer stop()
	return cmd.Wait()
}
