// Package standin is the small program that plays Dify where no container engine is at hand. It gets the very settings that
// Dify's containers would get, by the same names and from nowhere else, and does with every store what Dify does:
// accounts, data sets and documents are rows, files and keys are objects, sessions and tasks are in Redis, and vectors in
// pgvector. A smoke test of Dify is a smoke test of it, row by row, and what breaks Dify breaks it at the same row. It is
// no Dify: it runs no app, and every answer says so. Each service is a process, or a container, of its own. Start reading at
// Run; NewProcesses is the runtime that the agent uses.
package standin
