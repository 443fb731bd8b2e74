package dify

// quietSince is the release from which on a workflow ends when its worker is told to: Dify's API, extensions/workflow_warm_shutdown.py.
// Until then, and for all other tasks, the signal is Celery's warm shutdown, which takes nothing more and finishes what is in hand.
const quietSince = "1.16.0"

// quietWorker has a Celery worker take nothing more, by its remote control, and waits until neither a task runs nor one waits that it has taken
// already. The module is the one of Dify's own health check, and knows the broker; a worker is called after its container.
const quietWorker = `import socket, sys, time
from celery_healthcheck import celery

me = "celery@" + socket.gethostname()
start = time.monotonic()
end = start + float(sys.argv[1])
ask = celery.control.inspect(destination=[me], timeout=2)
queues = None
while queues is None:
    if time.monotonic() > min(end, start + 15):
        sys.exit("the worker does not answer")
    queues = (ask.active_queues() or {}).get(me)
for queue in queues:
    celery.control.cancel_consumer(queue["name"], destination=[me], reply=True, timeout=2)
while time.monotonic() < end:
    reserved, active = ask.reserved(), ask.active()  # a task goes from the one to the other
    if active and reserved and not active.get(me) and not reserved.get(me):
        sys.exit(0)
    time.sleep(0.5)
sys.exit("tasks are still in hand")
`

// quiet gives Service.Quiet of the worker of a version.
func quiet(version string) []string {
	if Older(version, quietSince) {
		return nil
	}
	return []string{"python", "-c", quietWorker}
}
