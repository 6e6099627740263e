import { type ReactNode, useEffect, useRef } from "react";
import UPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import styles from "./metrics.module.css";

interface PlotProps {
  readonly label: string;
  /** Seconds since 1970, rising. */
  readonly times: readonly number[];
  readonly values: readonly number[];
  /** Distances between marks of the axis that read well. Default: decimal ones. */
  readonly steps?: readonly number[];
  /** A value as text, with its unit. */
  readonly format: (value: number) => string;
}

/** One line over time. The legend has the value below the pointer. */
export default function Plot({ label, times, values, steps, format }: PlotProps): ReactNode {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const parent = place.current;
    if (parent === null) return undefined;
    const theme = getComputedStyle(document.documentElement);
    const colour = (name: string): string => theme.getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--border"), width: 1 } };
    const size = () => ({ width: Math.max(160, parent.clientWidth), height: 170 });
    const plot = new UPlot(
      {
        ...size(),
        scales: { y: { range: (_plot, _min, max) => [0, Math.max(1, max * 1.1)] } },
        axes: [
          axis,
          {
            ...{ ...axis, size: 80, values: (_plot, ticks) => ticks.map(format) },
            ...(steps === undefined ? {} : { incrs: [...steps] }),
          },
        ],
        series: [
          {},
          {
            label,
            stroke: colour("--accent"),
            fill: colour("--accent-soft"),
            width: 2,
            points: { show: false },
            value: (_plot, value: number | null) => (value === null ? "" : format(value)),
          },
        ],
      },
      [[...times], [...values]],
      parent,
    );
    const observer = new ResizeObserver(() => plot.setSize(size()));
    observer.observe(parent);
    return () => {
      observer.disconnect();
      plot.destroy();
    };
  }, [label, times, values, steps, format]);
  return <div ref={place} className={styles["plot"]} />;
}
