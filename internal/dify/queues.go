package dify

// QueueLength is the metric of Cloud Monitoring that has the number of tasks that wait in the stack's queues: one series for a stack, of a
// QueueResource in the namespace QueueNamespace, whose node is the stack.
const (
	MetricPrefix   = "custom.googleapis.com/difyup/"
	QueueLength    = MetricPrefix + "queue_length"
	QueueResource  = "generic_node"
	QueueNamespace = "difyup"
)

// Queues gives the lists in Redis's BrokerDatabase in which tasks wait for workers: those that the workers of any release take from
// (api/docker/entrypoint.sh). One is left out that 1.12.1 fills and nobody empties: trigger_refresh_publisher.
func Queues() []string {
	return []string{
		"api_token", "app_deletion", "app_rbac", "conversation", "dataset", "dataset_summary", "mail", "ops_trace", "pipeline", "plugin", "priority_dataset",
		"priority_pipeline", "retention", "schedule_executor", "schedule_poller", "trigger_refresh_executor", "triggered_workflow_dispatcher", "workflow",
		"workflow_based_app_execution", "workflow_storage",
	}
}
