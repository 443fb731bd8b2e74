package driver

import "github.com/difyup/difyup/internal/gcp"

// All gives every driver by the name in Kind.Driver.
func All() map[string]func(*gcp.Client) gcp.Driver {
	return map[string]func(*gcp.Client) gcp.Driver{
		"services":       func(c *gcp.Client) gcp.Driver { return &services{gcp.REST{Client: c}} },
		"connection":     func(c *gcp.Client) gcp.Driver { return &connection{gcp.REST{Client: c}} },
		"iam":            func(c *gcp.Client) gcp.Driver { return &policy{gcp.REST{Client: c}} },
		"serviceaccount": func(c *gcp.Client) gcp.Driver { return &serviceAccount{gcp.REST{Client: c}} },
		"secret":         func(c *gcp.Client) gcp.Driver { return &secret{gcp.REST{Client: c}} },
		"sqlinstance": func(c *gcp.Client) gcp.Driver {
			return &sqlInstance{REST: gcp.REST{Client: c}, flags: &flagLists{byVersion: map[string][]flag{}}}
		},
		"sqluser":     func(c *gcp.Client) gcp.Driver { return &sqlUser{gcp.REST{Client: c}} },
		"certificate": func(c *gcp.Client) gcp.Driver { return &certificate{gcp.REST{Client: c}} },
		"group":       func(c *gcp.Client) gcp.Driver { return &group{gcp.REST{Client: c}} },
		"bucket":      func(c *gcp.Client) gcp.Driver { return &bucket{gcp.REST{Client: c}} },
		"object":      func(c *gcp.Client) gcp.Driver { return &object{gcp.REST{Client: c}} },
		"rrset":       func(c *gcp.Client) gcp.Driver { return &recordSet{gcp.REST{Client: c}} },
	}
}
