//! The chart of a comparison, as SVG: how much each model has served, and how long it took.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::{
    BLACK, BindKeyPoints, ChartBuilder, Circle, Color, DrawingArea, IntoDrawingArea, IntoFont,
    IntoLogRange, PathElement, RGBColor, Rectangle, SVGBackend, Text, TextStyle, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::args::Compare;
use crate::compare::Row;
use crate::compare::report::{count, round_time, title};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A file that can be written, as was seen before there was anything to write.
#[derive(Debug)]
pub(super) struct ChartFile {
    path: PathBuf,
    file: File,
    /// It was not there before, and is removed where nothing is written.
    is_new: bool,
}

impl ChartFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut options = File::options();
        options.write(true);
        let (opened, is_new) = match options.clone().create_new(true).open(path) {
            Err(err) if err.kind() == ErrorKind::AlreadyExists => (options.open(path), false),
            opened => (opened, true),
        };
        let file = opened.with_context(|| format!("write the chart to {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            is_new,
        })
    }

    pub(super) fn write(mut self, svg: &str) -> Result<()> {
        // What is no ordinary file has no length: a pipe, a terminal.
        let is_file = self.file.metadata().is_ok_and(|meta| meta.is_file());
        let cut = if is_file {
            self.file.set_len(0)
        } else {
            Ok(())
        };
        cut.and_then(|()| self.file.write_all(svg.as_bytes()))
            .with_context(|| format!("write the chart to {}", self.path.display()))?;
        self.is_new = false;
        Ok(())
    }
}

impl Drop for ChartFile {
    fn drop(&mut self) {
        if self.is_new {
            // Whoever has removed it before did the same.
            let _ = fs::remove_file(&self.path);
        }
    }
}

const WIDTH: u32 = 920;
const TITLE_HEIGHT: u32 = 70;
const ROW_HEIGHT: u32 = 38;
/// What a panel has above and below its rows.
const PANEL_FRAME: u32 = 110;
const NAMES_WIDTH: u32 = 190;
const FONT: &str = "sans-serif";

const BLUE: RGBColor = RGBColor(0x3b, 0x6f, 0xb6);
const ORANGE: RGBColor = RGBColor(0xe8, 0x8c, 0x1e);
const RED: RGBColor = RGBColor(0xc9, 0x3c, 0x3c);
const GREY: RGBColor = RGBColor(0x70, 0x70, 0x70);
const PALE: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// Draws the chart.
pub(super) fn draw(rows: &[Row], args: &Compare) -> Result<String> {
    let panel = PANEL_FRAME + ROW_HEIGHT * rows.len() as u32;
    let mut svg = String::new();
    {
        let backend = SVGBackend::with_string(&mut svg, (WIDTH, TITLE_HEIGHT + 2 * panel));
        let root = backend.into_drawing_area();
        let drawn = draw_on(&root, panel, rows, args);
        drawn.map_err(|err| anyhow!("draw the chart: {err}"))?;
    }
    Ok(svg)
}

type Drawn<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn draw_on(root: &Area<'_>, panel: u32, rows: &[Row], args: &Compare) -> Drawn {
    root.fill(&WHITE)?;
    let middle = WIDTH as i32 / 2;
    let center = |size| style(size, &BLACK, HPos::Center);
    root.draw(&Text::new(
        "Which concurrency model?",
        (middle, 24),
        center(20),
    ))?;
    root.draw(&Text::new(title(args), (middle, 50), center(14)))?;
    let (_, panels) = root.split_vertically(TITLE_HEIGHT);
    let (upper, lower) = panels.split_vertically(panel);
    throughput(root, &upper, rows)?;
    latency(root, &lower, rows)?;
    root.present()?;
    Ok(())
}

fn style<'a>(size: u32, color: &'a RGBColor, place: HPos) -> TextStyle<'a> {
    let font = (FONT, size).into_font().color(color);
    font.pos(Pos::new(place, VPos::Center))
}

/// The middle of a row, from below.
fn row_middle(rows: &[Row], index: usize) -> f64 {
    (rows.len() - 1 - index) as f64 + 0.5
}

fn throughput(root: &Area<'_>, area: &Area<'_>, rows: &[Row]) -> Drawn {
    let most = rows.iter().map(|row| row.throughput).fold(1.0, f64::max);
    let mut chart = panel(area, "Requests per second")
        .build_cartesian_2d(0.0..most * 1.15, 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(8)
        .x_label_formatter(&|number| count(*number))
        .light_line_style(WHITE)
        .bold_line_style(PALE)
        .axis_style(GREY)
        .label_style((FONT, 13))
        .x_desc(if rows.iter().all(Row::is_complete) {
            "requests answered per second"
        } else {
            "requests answered per second; pale: not every client was served"
        })
        .draw()?;
    for (index, row) in rows.iter().enumerate() {
        let middle = row_middle(rows, index);
        let ends = [(0.0, middle - 0.3), (row.throughput, middle + 0.3)];
        let color = if row.is_complete() {
            BLUE.filled()
        } else {
            BLUE.mix(0.4).filled()
        };
        chart.draw_series([Rectangle::new(ends, color)])?;
        let (x, y) = chart.backend_coord(&(row.throughput, middle));
        let label = style(13, &BLACK, HPos::Left);
        root.draw(&Text::new(count(row.throughput), (x + 6, y), label))?;
        name(root, row, chart.backend_coord(&(0.0, middle)))?;
    }
    Ok(())
}

fn latency(root: &Area<'_>, area: &Area<'_>, rows: &[Row]) -> Drawn {
    let latencies = rows.iter().filter_map(|row| row.latency);
    let (least, most) = latencies.fold((f64::MAX, 1.0_f64), |(least, most), latency| {
        (least.min(latency.p50), most.max(latency.p999))
    });
    let ticks = ticks(least.min(most), most);
    let (from, to) = (ticks[0], ticks[ticks.len() - 1]);
    let x = (from..to).log_scale().with_key_points(ticks);
    let mut chart = panel(area, "Latency").build_cartesian_2d(x, 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_label_formatter(&|micros| round_time(*micros))
        .light_line_style(WHITE)
        .bold_line_style(PALE)
        .axis_style(GREY)
        .label_style((FONT, 13))
        .x_desc("time that a client waited for its answer, logarithmic")
        .draw()?;
    let kinds = [("p50", BLUE), ("p99", ORANGE), ("p99.9", RED)];
    for (index, row) in rows.iter().enumerate() {
        let middle = row_middle(rows, index);
        name(root, row, chart.backend_coord(&(from, middle)))?;
        let Some(latency) = row.latency else {
            let (x, y) = chart.backend_coord(&(from, middle));
            root.draw(&Text::new(
                "no answer",
                (x + 8, y),
                style(13, &GREY, HPos::Left),
            ))?;
            continue;
        };
        let line = vec![
            (latency.p50.max(from), middle),
            (latency.p999.max(from), middle),
        ];
        chart.draw_series([PathElement::new(line, GREY.stroke_width(2))])?;
        let values = [latency.p50, latency.p99, latency.p999];
        // The last one first, so that the smaller ones are not hidden by it.
        for (value, (_, color)) in values.into_iter().zip(kinds).rev() {
            chart.draw_series([Circle::new((value.max(from), middle), 6, color.filled())])?;
        }
    }
    legend(root, area, &kinds)
}

/// The numbers 1, 2 and 5 times a power of ten that have both numbers between them; of many, the
/// powers of ten. At least two.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    let least = least.max(0.1);
    let powers = (-1..12).map(|power| 10_f64.powi(power));
    let all: Vec<_> = powers
        .flat_map(|power| [power, 2.0 * power, 5.0 * power])
        .collect();
    let first = all.iter().rposition(|tick| *tick <= least).unwrap_or(0);
    let last = all.iter().position(|tick| *tick >= most);
    let last = last.unwrap_or(all.len() - 1).max(first + 1);
    let is_kept = |index: usize| {
        last - first < 10 || index.is_multiple_of(3) || index == first || index == last
    };
    let range = first..=last;
    range
        .filter(|index| is_kept(*index))
        .map(|index| all[index])
        .collect()
}

fn panel<'a, 'b>(area: &'a Area<'b>, caption: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(caption, (FONT, 17))
        .margin(8)
        .margin_right(24)
        .y_label_area_size(NAMES_WIDTH)
        .x_label_area_size(52);
    builder
}

/// Writes the name of a model to the left of its row, and how many it has served if not all.
fn name(root: &Area<'_>, row: &Row, (x, y): (i32, i32)) -> Drawn {
    let is_complete = row.served == u64::from(row.connections);
    let shift = if is_complete { 0 } else { 8 };
    let label = style(14, &BLACK, HPos::Right);
    root.draw(&Text::new(
        row.model.to_string(),
        (x - 10, y - shift),
        label,
    ))?;
    if !is_complete {
        let served = format!("served {} of {}", row.served, row.connections);
        let label = style(11, &GREY, HPos::Right);
        root.draw(&Text::new(served, (x - 10, y + shift), label))?;
    }
    Ok(())
}

/// Names the colours, at the right of the panel's caption.
fn legend(root: &Area<'_>, area: &Area<'_>, kinds: &[(&str, RGBColor)]) -> Drawn {
    let (_, y) = area.get_base_pixel();
    let y = y + 20;
    for (index, (name, color)) in kinds.iter().rev().enumerate() {
        let x = WIDTH as i32 - 80 - 70 * index as i32;
        root.draw(&Circle::new((x, y), 6, color.filled()))?;
        root.draw(&Text::new(
            *name,
            (x + 11, y),
            style(13, &BLACK, HPos::Left),
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_have_the_values_between_them() {
        assert_eq!(ticks(1.1, 4.9), [1.0, 2.0, 5.0]);
        assert_eq!(ticks(3.0, 3.0), [2.0, 5.0]);
        assert_eq!(ticks(0.0, 0.3), [0.1, 0.2, 0.5]);
        assert_eq!(
            ticks(15.0, 60_000.0),
            [10.0, 100.0, 1000.0, 10_000.0, 100_000.0]
        );
    }
}
