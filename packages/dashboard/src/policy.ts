import { config } from "zod";

// The page's policy forbids code that is made from text, which zod would use to be faster.
config({ jitless: true });
