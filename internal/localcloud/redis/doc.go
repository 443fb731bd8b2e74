// Package redis is the local cloud's Memorystore for Redis API. What runs behind an instance is an Engine's business;
// this package must not know processes. Start reading at Register.
package redis
