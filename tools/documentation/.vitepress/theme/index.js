// The variant without fonts uses those of the system.
export { default } from "vitepress/theme-without-fonts";
import "./style.css";
