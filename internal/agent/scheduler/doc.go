// Package scheduler has exactly one instance of a stack schedule tasks. Celery's beat runs on every instance, and reaches
// Redis only through a relay here, which forwards what it sends only while this instance holds the stack's lease. See ADR 21.
package scheduler
