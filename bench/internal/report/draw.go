package report

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Picture is a plot in a file.
type Picture struct {
	Title, File string
}

// Draw draws what results show better than a table does, into files in dir.
func Draw(results []Result, dir string) ([]Picture, error) {
	var drawn []Picture
	var errs []error
	for _, p := range []struct {
		file, title string
		draw        func([]Result) (*plot.Plot, error)
	}{
		{"change-by-size.svg", "One endpoint change: API write to packets", bySize("sweep", "one endpoint change, API write → packets")},
		{"cpu-by-size.svg", "One endpoint change: processor time of the proxy", bySize("sweep", "CPU of one change")},
		{"start-by-size.svg", "Process start to all services answering", bySize("sweep", "process start → all services answer, kernel empty")},
		{"change-latency.svg", "One endpoint change: API write to packets", distribution("control", "one endpoint change, API write → packets",
			"one endpoint change while 100 a second go on, API write → packets")},
		{"connect-latency.svg", "Making a connection", distribution("packets", "connect latency", "connect latency, directly to endpoints")},
	} {
		picture, err := p.draw(results)
		if err != nil {
			errs = append(errs, fmt.Errorf("draw %s: %w", p.file, err))
			continue
		}
		if picture == nil {
			continue
		}
		picture.Title.Text = p.title
		if err := picture.Save(18*vg.Centimeter, 11*vg.Centimeter, filepath.Join(dir, p.file)); err != nil {
			errs = append(errs, err)
			continue
		}
		drawn = append(drawn, Picture{p.title, p.file})
	}
	return drawn, errors.Join(errs...)
}

// newPlot returns an empty plot on white, with a grid.
func newPlot(x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.White
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding = vg.Points(2)
	p.Title.Padding = vg.Points(6)
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{225}, color.Gray{225}
	p.Add(grid)
	return p
}

// colours of proxies, those of Okabe and Ito that everybody can tell apart.
var colours = []color.RGBA{{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {90, 90, 90, 255}}

func colourOf(proxy string, proxies []string) color.RGBA {
	if proxy == "none" {
		return colours[4]
	}
	return colours[slices.Index(proxies, proxy)%4]
}

func proxiesOf(results []Result) (proxies []string) {
	for _, r := range results {
		if !slices.Contains(proxies, r.Proxy) {
			proxies = append(proxies, r.Proxy)
		}
	}
	order(proxies, rank)
	return proxies
}

// bySize plots the median of a metric, with lowest and highest, against the number of services.
func bySize(section, metric string) func([]Result) (*plot.Plot, error) {
	return func(results []Result) (*plot.Plot, error) {
		of := slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return r.Section != section || r.Metric != metric || r.P50 <= 0 })
		if len(of) < 2 {
			return nil, nil
		}
		p := newPlot("services, of "+group(fmt.Sprint(of[0].Endpoints))+" endpoints each", of[0].Unit)
		p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
		p.X.Tick.Marker, p.Y.Tick.Marker = decades{}, decades{}
		proxies := proxiesOf(of)
		lowest, highest := math.Inf(1), 0.0
		for _, proxy := range proxies {
			var points plotter.XYs
			for _, r := range of {
				if r.Proxy == proxy {
					points = append(points, plotter.XY{X: float64(r.Services), Y: r.P50})
					lowest, highest = min(lowest, r.P50), max(highest, r.P50)
				}
			}
			line, dots, err := plotter.NewLinePoints(points)
			if err != nil {
				return nil, err
			}
			c := colourOf(proxy, proxies)
			line.Color, line.Width = c, vg.Points(2)
			dots.Color, dots.Shape = c, draw.CircleGlyph{}
			p.Add(line, dots)
			p.Legend.Add(proxy, line, dots)
		}
		p.X.Min, p.X.Max = decade(p.X.Min, math.Floor), decade(p.X.Max, math.Ceil)
		p.Y.Min, p.Y.Max = decade(lowest, math.Floor), decade(highest, math.Ceil)
		return p, nil
	}
}

// dashes tell metrics in one picture apart.
var dashes = [][]vg.Length{nil, {vg.Points(6), vg.Points(3)}}

// distribution plots which share of the values of some metrics is at most how large, for the largest
// cluster in which they were measured.
func distribution(section string, metrics ...string) func([]Result) (*plot.Plot, error) {
	return func(results []Result) (*plot.Plot, error) {
		of := slices.DeleteFunc(slices.Clone(results), func(r Result) bool {
			return r.Section != section || !slices.Contains(metrics, r.Metric) || r.N < 5
		})
		if len(of) == 0 {
			return nil, nil
		}
		size := 0
		for _, r := range of {
			size = max(size, r.Services)
		}
		p := newPlot(fmt.Sprintf("%s, with %s services", of[0].Unit, group(fmt.Sprint(size))), "share of measurements, %")
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, decades{}
		p.Legend.Left = false
		p.Legend.Top = false
		proxies := proxiesOf(of)
		lowest, highest := math.Inf(1), 0.0
		for _, proxy := range proxies {
			for i, metric := range metrics {
				for _, r := range of {
					if r.Proxy != proxy || r.Metric != metric || r.Services != size {
						continue
					}
					line, err := plotter.NewLine(cumulative(r.Values))
					if err != nil {
						return nil, err
					}
					line.Color, line.Width, line.Dashes = colourOf(proxy, proxies), vg.Points(1.6), dashes[i%len(dashes)]
					p.Add(line)
					p.Legend.Add(label(proxy, metric, metrics[0]), line)
					lowest, highest = min(lowest, r.Min), max(highest, r.P99)
				}
			}
		}
		p.X.Min, p.X.Max = decade(max(lowest, 1e-3), math.Floor), decade(highest, math.Ceil)
		p.Y.Min, p.Y.Max = 0, 100
		return p, nil
	}
}

// label names a line by its proxy and by what its metric has beyond the first.
func label(proxy, metric, first string) string {
	if metric == first {
		return proxy
	}
	common, _, _ := strings.Cut(first, ",")
	rest := strings.TrimPrefix(metric, common)
	rest, _, _ = strings.Cut(strings.Trim(rest, ", "), ",")
	return proxy + ", " + rest
}

func cumulative(values []float64) plotter.XYs {
	sorted := slices.Sorted(slices.Values(values))
	points := make(plotter.XYs, 0, len(sorted))
	for i, v := range sorted {
		if v > 0 {
			points = append(points, plotter.XY{X: v, Y: 100 * float64(i+1) / float64(len(sorted))})
		}
	}
	return points
}

// decade returns the power of ten below or above a number.
func decade(v float64, round func(float64) float64) float64 {
	return math.Pow(10, round(math.Log10(v)))
}

// decades marks powers of ten, and what is between them without a number.
type decades struct{}

// Ticks is of plot.Ticker.
func (decades) Ticks(from, to float64) []plot.Tick {
	var ticks []plot.Tick
	for e := math.Floor(math.Log10(from)); e <= math.Ceil(math.Log10(to)); e++ {
		base := math.Pow(10, e)
		ticks = append(ticks, plot.Tick{Value: base, Label: plain(base)})
		for n := 2.0; n < 10; n++ {
			ticks = append(ticks, plot.Tick{Value: n * base})
		}
	}
	return slices.DeleteFunc(ticks, func(t plot.Tick) bool { return t.Value < from || t.Value > to })
}

func plain(v float64) string {
	if v >= 1 {
		return group(fmt.Sprintf("%.0f", v))
	}
	return fmt.Sprintf("%g", v)
}
