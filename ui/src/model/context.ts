import { createContext } from "svelte";

import type { App } from "./app.svelte";

/** The page's parts, for every component below the root. */
export const [getApp, setApp] = createContext<App>();
