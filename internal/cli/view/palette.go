package view

// Palette paints words. The zero Palette paints nothing.
type Palette struct{ on bool }

// NewPalette gives colours where the output is a terminal, unless the environment says otherwise: NO_COLOR, TERM=dumb,
// FORCE_COLOR.
func NewPalette(terminal bool, env func(string) string) Palette {
	return Palette{on: env("FORCE_COLOR") != "" || terminal && env("NO_COLOR") == "" && env("TERM") != "dumb"}
}

// paint gives a text in a colour; it is made harmless as printf's arguments are.
func (p Palette) paint(code string, text any) styled {
	s := sprintf("%v", text)
	if !p.on || s == "" {
		return s
	}
	return styled("\x1b[" + code + "m" + string(s) + "\x1b[0m")
}

func (p Palette) bold(text any) styled   { return p.paint("1", text) }
func (p Palette) dim(text any) styled    { return p.paint("2", text) }
func (p Palette) red(text any) styled    { return p.paint("31", text) }
func (p Palette) green(text any) styled  { return p.paint("32", text) }
func (p Palette) yellow(text any) styled { return p.paint("33", text) }
func (p Palette) cyan(text any) styled   { return p.paint("36", text) }
