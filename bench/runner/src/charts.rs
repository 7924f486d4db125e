//! Charts: for each group of scenarios the CPU per operation, the throughput, and the latency where the load had a
//! timetable, with a bar for each subject.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::drawing::IntoDrawingArea;
use plotters::prelude::{BLACK, Color, Rectangle, SVGBackend, Text, WHITE};
use plotters::style::{IntoFont, RGBColor};

use crate::measure::{Round, Row};
use crate::report::Outcome;

const WIDTH: i32 = 960;
const MARGIN: i32 = 24;
/// Where the bars begin, and how far they reach at most.
const BARS: i32 = 290;
const REACH: i32 = WIDTH - BARS - MARGIN - 80;
const TITLE: i32 = 44;
const HEADING: i32 = 30;
const BAR: i32 = 20;
const GAP: i32 = 10;

const GREY: RGBColor = RGBColor(90, 90, 90);
const OURS: RGBColor = RGBColor(200, 85, 61);
const BASELINE: RGBColor = RGBColor(61, 90, 115);
const RIVAL: RGBColor = RGBColor(157, 178, 191);

/// What a chart shows.
struct Kind {
    name: &'static str,
    title: &'static str,
    digits: usize,
    value: fn(&Round) -> Option<f64>,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "cpu",
        title: "processor time of the server for each operation, in microseconds: less is better",
        digits: 2,
        value: |round| Some(round.cpu_us_per_op),
    },
    Kind {
        name: "throughput",
        title: "operations per second: more is better",
        digits: 0,
        value: |round| match round.load.offered {
            // It is the load's.
            Some(_) => None,
            None => Some(round.throughput()),
        },
    },
    Kind {
        name: "p99",
        title: "latency that 99 % stay below, in microseconds from when a request was due: less is better",
        digits: 0,
        value: |round| round.load.offered.as_ref().map(|_| round.load.p99_us),
    },
];

/// Bars that stand together.
struct Group<'a> {
    heading: String,
    baseline: &'static str,
    bars: Vec<(&'a Row, f64)>,
}

/// Writes `DIR/GROUP-cpu.svg`, `DIR/GROUP-throughput.svg` and `DIR/GROUP-p99.svg`, as far as there is something to draw.
pub(crate) fn write(outcomes: &[Outcome], dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let mut names: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.scenario.group)
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        for kind in &KINDS {
            let members = outcomes
                .iter()
                .filter(|outcome| outcome.scenario.group == name);
            let groups: Vec<_> = members
                .map(|outcome| Group::of(outcome, kind))
                .filter(|group| !group.bars.is_empty())
                .collect();
            if groups.is_empty() {
                continue;
            }
            let path = dir.join(format!("{name}-{}.svg", kind.name));
            draw(&path, &groups, name, kind)
                .map_err(|err| anyhow!("{err}"))
                .with_context(|| format!("draw {}", path.display()))?;
        }
    }
    Ok(())
}

impl<'a> Group<'a> {
    fn of(outcome: &'a Outcome, kind: &Kind) -> Self {
        let rows = outcome.rows.iter();
        Self {
            heading: format!("{}: {}", outcome.scenario.name, outcome.scenario.about),
            baseline: outcome.scenario.baseline,
            bars: rows
                .filter_map(|row| Some((row, row.median_of(kind.value)?)))
                .collect(),
        }
    }

    /// The length of a bar is relative to the longest of its group: groups differ by orders of magnitude.
    fn longest(&self) -> f64 {
        let values = self.bars.iter().map(|(_, value)| *value);
        values.fold(f64::MIN_POSITIVE, f64::max)
    }

    fn color(&self, subject: &str) -> RGBColor {
        match subject {
            _ if subject.starts_with("socketserver") => OURS,
            _ if subject == self.baseline => BASELINE,
            _ => RIVAL,
        }
    }

    fn height(&self) -> i32 {
        HEADING + BAR * self.bars.len() as i32 + GAP
    }
}

fn draw(
    path: &Path,
    groups: &[Group<'_>],
    name: &str,
    kind: &Kind,
) -> Result<(), Box<dyn std::error::Error>> {
    let height = TITLE + groups.iter().map(Group::height).sum::<i32>() + MARGIN;
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |words: String, at, size: i32, color: RGBColor| {
        // The backend writes sizes as 1 / 1.24 of what they are.
        let style = ("sans-serif", size * 124 / 100).into_font().color(&color);
        Text::new(words, at, style)
    };
    let title = format!("{name}: {}", kind.title);
    area.draw(&text(title, (MARGIN, 14), 16, BLACK))?;
    let mut top = TITLE;
    for group in groups {
        let at = (MARGIN, top + 10);
        area.draw(&text(group.heading.clone(), at, 13, GREY))?;
        top += HEADING;
        for (row, value) in &group.bars {
            let color = group.color(row.subject).filled();
            let end = BARS + (value / group.longest() * f64::from(REACH)) as i32;
            let corners = [(BARS, top + 2), (end.max(BARS + 1), top + BAR - 2)];
            area.draw(&Rectangle::new(corners, color))?;
            let label = row.subject.to_owned();
            area.draw(&text(label, (MARGIN + 12, top + 4), 12, BLACK))?;
            let value = format!("{value:.*}", kind.digits);
            area.draw(&text(value, (end + 6, top + 4), 12, GREY))?;
            top += BAR;
        }
        top += GAP;
    }
    area.present()?;
    Ok(())
}
