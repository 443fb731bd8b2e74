// Package cloud starts local clouds for tests and builds the programs that run in them. It holds no tests.
package cloud
