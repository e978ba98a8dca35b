"use strict"
const $ = id => document.getElementById(id)
const TRIES = 5
let thread = null // the id of the one that is shown
let reading = null // what ends the reading of a reply
let run = null // the one that can be stopped

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status }
}

async function api(path, method = "GET", body = undefined, signal = undefined) {
  const headers = body === undefined ? {} : { "content-type": "application/json" }
  const answer = await fetch(`/api/${path}`, { method, headers, body: body && JSON.stringify(body), signal })
  if (answer.ok) return answer
  const detail = (await answer.json().catch(() => ({}))).detail
  if (answer.status === 401 && path !== "session") show("door")
  throw new Refused(answer.status, typeof detail === "string" ? detail : "This cannot be sent. Check what you wrote.")
}

function show(which) {
  for (const id of ["door", "room"]) $(id).hidden = id !== which
  $(which === "door" ? "name" : "text").focus()
}

function made(tag, className, text) {
  const element = document.createElement(tag)
  element.className = className
  if (text !== undefined) element.textContent = text // never as HTML: a model may write anything
  return element
}

// Messages

function addMessage(role, text, ending = null) {
  const item = made("li", role)
  item.append(made("div", "said", text))
  $("messages").append(item)
  addEnding(item, ending)
  item.scrollIntoView({ block: "end" })
  return item
}

function addEnding(item, ending) {
  if (ending?.problem) item.append(made("p", "problem", ending.problem))
  if (ending?.cost) item.append(made("p", "cost quiet", costInWords(ending.cost)))
}

const usd = amount => `$${amount.toFixed(amount < 0.1 ? 5 : 2)}`

function costInWords(cost) {
  const share = cost.prompt_tokens ? Math.round(100 * cost.cache_read_tokens / cost.prompt_tokens) : 0
  const tokens = `${cost.prompt_tokens} tokens in (${share} % from the prompt cache), ${cost.output_tokens} out`
  if (cost.usd === null) return tokens
  const saved = cost.saved_usd > 0 ? `, ${usd(cost.saved_usd)} saved by the prompt cache` : ""
  return `${usd(cost.usd)}${saved} · ${tokens}`
}

function offerAgain(item) {
  const button = made("button", "again", "Try again")
  button.type = "button"
  button.addEventListener("click", () => { item.remove(); reply(null) })
  item.append(button)
  return button
}

// Replies

/** Send `text` (null: answer what stands there) and show the reply as it comes; or take up `runId`, which goes on. */
async function reply(text, runId = null) {
  const here = thread, item = addMessage("assistant", ""), box = item.firstChild
  const abort = reading = new AbortController()
  let ending = null, refused = null, after = null
  run = runId
  busy(true)
  const hear = event => {
    after = event.seq ?? after
    if (event.type === "started") run = event.run
    if (event.type === "text") { box.textContent += event.text; box.scrollIntoView({ block: "end" }) }
    if (event.type === "ended") ending = event.ending
  }
  for (let tries = 0; !ending && !refused && tries < TRIES; tries++) {
    const before = after
    try {
      if (tries) await new Promise(done => setTimeout(done, 500 * 2 ** tries))
      const answer = run === null
        ? await api(`threads/${here}/messages`, "POST", { text }, abort.signal)
        : await api(`threads/${here}/runs/${run}${after === null ? "" : `?after=${after}`}`, "GET", undefined, abort.signal)
      await events(answer, hear)
    } catch (error) {
      if (abort.signal.aborted) return
      if (error instanceof Refused && (error.status < 500 || run === null)) refused = error.message
      // Nobody knows whether a message that was not answered has arrived: it is not sent twice.
      if (run === null) refused ??= "The message may not have arrived. Reload the page to see."
    }
    if (after !== before) tries = 0
  }
  if (thread !== here || abort.signal.aborted) return
  ended(item, ending ?? { problem: refused ?? "The connection is lost. Reload the page to go on.", cost: null })
}

function ended(item, ending) {
  const empty = !item.firstChild.textContent
  if (empty) item.firstChild.remove()
  addEnding(item, ending)
  if (empty && ending.status === "failed") offerAgain(item)
  item.scrollIntoView({ block: "end" })
  busy(false, ending.problem ?? `Reply: ${item.firstChild?.textContent ?? ""}`)
  reading = run = null
}

async function events(answer, hear) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
  for (let rest = "", chunk; !(chunk = await reader.read()).done;) {
    const parts = (rest + chunk.value).split("\n\n")
    rest = parts.pop()
    for (const part of parts) if (part.startsWith("data: ")) hear(JSON.parse(part.slice(6)))
  }
}

function busy(is, spoken = "The reply is being written.") {
  $("send").hidden = is
  $("stop").hidden = !is
  $("messages").setAttribute("aria-busy", is)
  $("status").textContent = is ? spoken : ""
  if (!is) said(spoken)
}

/** For those who hear the page: the whole reply at once, not word by word. */
function said(text) {
  const note = made("span", "skip", text.slice(0, 2000))
  $("status").replaceChildren(note)
}

async function stop() {
  if (run !== null) await api(`threads/${thread}/runs/${run}/cancel`, "POST").catch(() => {}) // it may have ended by itself
}

// Conversations

async function listThreads() {
  const found = await (await api("threads")).json()
  $("list").replaceChildren(...found.map(one => {
    const item = made("li", ""), open = made("button", "", one.title), away = made("button", "", "×")
    if (one.id === thread) open.setAttribute("aria-current", "true")
    away.setAttribute("aria-label", `Delete ${one.title}`)
    open.addEventListener("click", () => openThread(one.id, one.title))
    away.addEventListener("click", async () => {
      if (!confirm(`Delete “${one.title}”?`)) return
      await api(`threads/${one.id}`, "DELETE").catch(error => said(error.message))
      if (one.id === thread) blank()
      await listThreads()
    })
    item.append(open, away)
    return item
  }))
  return found
}

function blank(id = null, title = "New conversation") {
  reading?.abort()
  thread = id
  reading = run = null
  $("messages").replaceChildren()
  $("title").textContent = title
  history.replaceState(null, "", id ? `#${id}` : "#")
  closeMenu()
  busy(false, "")
  $("text").focus()
}

async function openThread(id, title) {
  blank(id, title)
  const { messages, active_run } = await (await api(`threads/${id}`)).json()
  if (thread !== id) return
  for (const one of messages) addMessage(one.role, one.text, one.ending)
  await listThreads()
  if (active_run) await reply(null, active_run)
  else if (messages.at(-1)?.role === "user") offerAgain(addMessage("assistant", "No reply came.")).focus()
}

async function send() {
  const text = $("text").value.trim()
  if (!text || reading) return
  $("text").value = ""
  try {
    if (thread === null) {
      const created = await (await api("threads", "POST", { text })).json()
      blank(created.id, created.title)
      await listThreads()
    }
    addMessage("user", text)
    await reply(text)
  } catch (error) {
    $("text").value = text
    addEnding(addMessage("assistant", ""), { problem: error.message })
  }
}

function closeMenu() {
  $("threads").classList.remove("open")
  $("menu").setAttribute("aria-expanded", false)
}

// Signing in

async function enter() {
  const me = await (await api("session")).json()
  $("model").textContent = `${me.name} · ${me.model}`
  const threads = await listThreads(), asked = location.hash.slice(1)
  show("room")
  const one = threads.find(found => found.id === asked)
  if (one) await openThread(one.id, one.title)
  else blank()
}

async function signIn(isNew) {
  if (!$("sign-in").reportValidity()) return
  $("refused").textContent = ""
  try {
    await api("session", "POST", { name: $("name").value, passphrase: $("passphrase").value, new: isNew })
    $("passphrase").value = ""
    await enter()
  } catch (error) {
    $("refused").textContent = error.message
  }
}

$("sign-in").addEventListener("submit", event => { event.preventDefault(); signIn(false) })
$("create").addEventListener("click", () => signIn(true))
$("sign-out").addEventListener("click", async () => { await api("session", "DELETE"); blank(); $("list").replaceChildren(); show("door") })
$("menu").addEventListener("click", () => {
  $("menu").setAttribute("aria-expanded", $("threads").classList.toggle("open"))
})
$("new").addEventListener("click", () => { blank(); listThreads() })
$("stop").addEventListener("click", stop)
$("form").addEventListener("submit", event => { event.preventDefault(); send() })
$("text").addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send() }
})
document.addEventListener("keydown", event => { if (event.key === "Escape") stop() })
enter().catch(error => { show("door"); if (error.status !== 401) $("refused").textContent = error.message })
