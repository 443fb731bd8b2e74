// Package doctor knows what goes wrong with Dify on Google Cloud: by which signs it is recognized, where it comes from and what to do
// about it. It is given what is known of a stack, and concludes; it reads nothing itself. Start reading at Illnesses, which is also the
// source of docs/doctor.md.
package doctor

//go:generate go run ./generate
