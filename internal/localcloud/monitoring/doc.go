// Package monitoring serves Cloud Monitoring's time series, as far as programs of their own write them: gauges of custom metrics, written
// and listed. Autoscalers ask it for the newest values. They are kept in memory, for a day.
package monitoring
