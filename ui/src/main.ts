// The chat page.

import { mount } from "svelte";

import AppView from "./App.svelte";
import { App } from "./model/app.svelte";
import { openKeep } from "./model/keep";
import "./style/base.css";
import "./style/shell.css";
import "./style/talk.css";
import "./style/text.css";
import "./style/panels.css";
import "./style/swarm.css";

const app = new App(await openKeep());
await app.apply();
const target = document.getElementById("page");
if (target) mount(AppView, { target, props: { app } });
await app.follow(location.hash);
