package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/difyup/difyup/internal/spelling"
)

// machineFamily is a series of x86 machine types.
type machineFamily struct {
	name        string
	cpus        []int              // of its predefined types
	classes     map[string]float64 // GB for each vCPU: "standard", "highmem", "highcpu"
	most        map[string]int     // vCPUs of the largest type of a class, where that is not the largest of cpus
	persistent  string             // which Persistent Disks it takes: "all", "ssd" (balanced and ssd only) or ""
	hyperdisk   bool               // whether it takes hyperdisk-balanced
	custom      bool               // whether there are custom types
	lssd        []string           // classes that have types with local SSDs
	low, high   float64            // GB for each vCPU of custom types
	customLimit int                // most vCPUs of custom types
	customOnly  []int              // the numbers of vCPUs of custom types, where they are fewer than all even ones
	memoryLimit float64            // most GB of custom types; 0 = what the vCPUs allow
	extended    bool               // whether custom types may have more memory than high
}

// customSizes gives the numbers of vCPUs that custom types have.
func (f machineFamily) customSizes() []int {
	if f.customOnly != nil {
		return f.customOnly
	}
	var all []int
	if f.name == "n1" {
		all = append(all, 1)
	}
	for n := 2; n <= f.customLimit; n += 2 {
		if n <= 32 || n%4 == 0 || f.name != "n2" { // N2's go in steps of 4 from there
			all = append(all, n)
		}
	}
	return all
}

// machineFamilies gives the series that suit a web application: general purpose and compute-optimised ones. Those built
// for GPUs, huge memory or storage are left out.
func machineFamilies() []machineFamily {
	usual := map[string]float64{"standard": 4, "highmem": 8, "highcpu": 1}
	newer := map[string]float64{"standard": 4, "highmem": 8, "highcpu": 2}
	return []machineFamily{
		{name: "e2", cpus: []int{2, 4, 8, 16, 32}, classes: usual, most: map[string]int{"highmem": 16}, persistent: "all", custom: true, low: 0.5, high: 8, customLimit: 32, memoryLimit: 128},
		{name: "n1", cpus: []int{1, 2, 4, 8, 16, 32, 64, 96}, classes: map[string]float64{"standard": 3.75, "highmem": 6.5, "highcpu": 0.9},
			persistent: "all", custom: true, low: 0.9, high: 6.5, customLimit: 96, extended: true},
		{name: "n2", cpus: []int{2, 4, 8, 16, 32, 48, 64, 80, 96, 128}, classes: usual, most: map[string]int{"highcpu": 96}, persistent: "all", custom: true, low: 0.5, high: 8, customLimit: 128, extended: true},
		{name: "n2d", cpus: []int{2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224}, classes: usual, most: map[string]int{"highmem": 96}, persistent: "all", custom: true, low: 0.5, high: 8, customLimit: 96,
			customOnly: []int{2, 4, 8, 16, 32, 48, 64, 80, 96}, extended: true},
		{name: "n4", cpus: []int{2, 4, 8, 16, 32, 48, 64, 80}, classes: newer, hyperdisk: true, custom: true, low: 2, high: 8, customLimit: 80, extended: true},
		{name: "n4d", cpus: []int{2, 4, 8, 16, 32, 48, 64, 80, 96}, classes: newer, hyperdisk: true, custom: true, low: 2, high: 8, customLimit: 96, extended: true},
		{name: "c2", cpus: []int{4, 8, 16, 30, 60}, classes: map[string]float64{"standard": 4}, persistent: "all"},
		{name: "c2d", cpus: []int{2, 4, 8, 16, 32, 56, 112}, classes: newer, persistent: "all"},
		{name: "c3", cpus: []int{4, 8, 22, 44, 88, 176}, classes: newer, persistent: "ssd", hyperdisk: true, lssd: []string{"standard"}},
		{name: "c3d", cpus: []int{4, 8, 16, 30, 60, 90, 180, 360}, classes: newer, persistent: "ssd", hyperdisk: true, lssd: []string{"standard", "highmem"}},
		{name: "c4", cpus: []int{2, 4, 8, 16, 24, 32, 48, 96, 144, 192, 288}, classes: map[string]float64{"standard": 3.75, "highmem": 7.75, "highcpu": 2}, hyperdisk: true, lssd: []string{"standard", "highmem"}},
		{name: "c4d", cpus: []int{2, 4, 8, 16, 32, 48, 64, 96, 192, 384}, classes: map[string]float64{"standard": 3.875, "highmem": 7.875, "highcpu": 1.875}, hyperdisk: true, lssd: []string{"standard", "highmem"}},
		{name: "t2d", cpus: []int{1, 2, 4, 8, 16, 32, 48, 60}, classes: map[string]float64{"standard": 4}, persistent: "all"},
	}
}

// machine is what is known of one machine type.
type machine struct {
	family machineFamily
	cpus   int
	memory float64 // GB
}

// machines gives the predefined types by name, to read only.
var machines = sync.OnceValue(func() map[string]machine {
	all := map[string]machine{}
	for _, f := range machineFamilies() {
		for class, each := range f.classes {
			for _, n := range f.cpus {
				if most := f.most[class]; most > 0 && n > most {
					continue
				}
				name := fmt.Sprintf("%s-%s-%d", f.name, class, n)
				all[name] = machine{f, n, each * float64(n)}
				if slices.Contains(f.lssd, class) {
					all[name+"-lssd"] = all[name]
				}
			}
		}
		switch f.name {
		case "e2":
			all["e2-micro"], all["e2-small"], all["e2-medium"] = machine{f, 2, 1}, machine{f, 2, 2}, machine{f, 2, 4}
		case "n1":
			all["f1-micro"], all["g1-small"] = machine{f, 1, 0.6}, machine{f, 1, 1.7}
		}
	}
	return all
})

// machineNames gives the names of those types that Dify fits into.
func machineNames() []string {
	var names []string
	for name, m := range machines() {
		if m.cpus >= 2 && m.memory >= 4 {
			names = append(names, name)
		}
	}
	return names
}

// machineNamed finds a type, predefined or custom. Otherwise it says what is wrong with it, as a sentence, and a type
// near to it, or "".
func machineNamed(name string) (m machine, problem, instead string) {
	all := machines()
	if m, ok := all[name]; ok {
		return m, "", ""
	}
	series, rest, _ := strings.Cut(name, "-")
	if series == "custom" { // the old name of N1's
		series, rest = "n1", name
	}
	switch series {
	case "t2a", "c4a", "n4a", "a4x":
		return machine{}, "Machines of the series " + quote(series) + " have Arm processors. The image and the agent that difyup uses are built for x86.",
			map[string]string{"t2a": "t2d", "c4a": "c4", "n4a": "n4", "a4x": "c4"}[series] + "-standard-4"
	}
	for _, f := range machineFamilies() {
		if f.name != series {
			continue
		}
		size, ok := strings.CutPrefix(rest, "custom-")
		if !ok || !f.custom {
			return machine{}, "Google has no machine type of this name in the series " + quote(series) + ".", nextSize(name)
		}
		return customMachine(f, size)
	}
	if instead = spelling.Nearest(name, machineNames()); instead != "" && spelling.Edits(name, instead) > 2 {
		instead = ""
	}
	return machine{}, "difyup does not know the series " + quote(series) + ". It knows the general-purpose and compute-optimised ones.", instead
}

// nextSize gives the type of the same class that is as large as the named one or next to it, or, if there is none, the nearest name.
func nextSize(name string) string {
	all := machines()
	i := strings.LastIndexByte(name, '-')
	if size, err := strconv.Atoi(name[i+1:]); err == nil {
		for n := size; n < size*2+2 && n < 1000; n++ {
			larger := name[:i+1] + strconv.Itoa(n)
			if _, ok := all[larger]; ok {
				return larger
			}
		}
		for n := size; n > 0; n-- { // the class has none so large
			if smaller := name[:i+1] + strconv.Itoa(n); all[smaller].cpus > 0 {
				return smaller
			}
		}
	}
	return spelling.Nearest(name, machineNames())
}

// customMachine reads "CPUS-MEGABYTES" or "CPUS-MEGABYTES-ext".
func customMachine(f machineFamily, size string) (m machine, problem, instead string) {
	size, extended := strings.CutSuffix(size, "-ext")
	c, mb, _ := strings.Cut(size, "-")
	cpus, err := strconv.Atoi(c)
	if err != nil {
		return machine{}, "The number of vCPUs is no number.", ""
	}
	megabytes, err := strconv.Atoi(mb)
	if err != nil {
		return machine{}, "The memory is no number of MB.", ""
	}
	m = machine{f, cpus, float64(megabytes) / 1024}
	limits := func(cpus int) (low, high int) {
		high = int(f.high * float64(cpus) * 1024)
		if f.memoryLimit > 0 {
			high = min(high, int(f.memoryLimit*1024))
		}
		return int(f.low * float64(cpus) * 1024), high
	}
	low, high := limits(cpus)
	prefix := f.name + "-custom-"
	sizes := f.customSizes()
	switch {
	case !slices.Contains(sizes, cpus):
		next := sizes[len(sizes)-1] // the next larger one
		for _, n := range slices.Backward(sizes) {
			if n >= max(cpus, 2) {
				next = n
			}
		}
		rule := fmt.Sprintf("an even number of vCPUs, up to %d", f.customLimit)
		switch {
		case f.customOnly != nil:
			rule = strings.Trim(fmt.Sprint(f.customOnly), "[]") + " vCPUs"
		case f.name == "n2":
			rule += ", and from 32 on one that divides by 4"
		}
		low, high := limits(next)
		return machine{}, fmt.Sprintf("Custom types of the series %s have %s.", quote(f.name), rule), fmt.Sprintf("%s%d-%d", prefix, next, clampMemory(megabytes, low, high))
	case extended && !f.extended:
		return machine{}, fmt.Sprintf("Custom types of the series %s have no extended memory.", quote(f.name)), fmt.Sprintf("%s%d-%d", prefix, cpus, clampMemory(megabytes, low, high))
	case megabytes%256 != 0:
		return machine{}, "The memory of custom types is a multiple of 256 MB.", fmt.Sprintf("%s%d-%d", prefix, cpus, clampMemory(megabytes, low, high))
	case megabytes < low || megabytes > high && !extended:
		return machine{}, fmt.Sprintf("With %d vCPUs, custom types of the series %s have %d to %d MB.", cpus, quote(f.name), low, high),
			fmt.Sprintf("%s%d-%d", prefix, cpus, clampMemory(megabytes, low, high))
	}
	return m, "", ""
}

// clampMemory gives the multiple of 256 in low…high that is nearest above megabytes.
func clampMemory(megabytes, low, high int) int {
	up := func(n int) int { return (n + 255) / 256 * 256 }
	return max(up(low), min(up(megabytes), high/256*256))
}
