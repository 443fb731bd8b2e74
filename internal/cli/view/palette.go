package view

// Palette paints words. The zero Palette paints nothing.
type Palette struct{ on bool }

// NewPalette gives colours where the output is a terminal, unless the environment says otherwise: NO_COLOR, TERM=dumb,
// FORCE_COLOR.
func NewPalette(terminal bool, env func(string) string) Palette {
	return Palette{on: env("FORCE_COLOR") != "" || terminal && env("NO_COLOR") == "" && env("TERM") != "dumb"}
}

func (p Palette) paint(code, s string) string {
	if !p.on || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p Palette) bold(s string) string   { return p.paint("1", s) }
func (p Palette) dim(s string) string    { return p.paint("2", s) }
func (p Palette) red(s string) string    { return p.paint("31", s) }
func (p Palette) green(s string) string  { return p.paint("32", s) }
func (p Palette) yellow(s string) string { return p.paint("33", s) }
func (p Palette) cyan(s string) string   { return p.paint("36", s) }
