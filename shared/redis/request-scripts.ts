/**
 * The steps of a request's life, each a Lua script: it happens whole or not at all, by Redis' own clock, and touches only
 * the keys that it declares. docs/architecture.md draws the states; request-life.ts is the one caller.
 *
 * Fields of a request's note:
 *   fingerprint, pool, lane, parts, pairs    what it is, and how it was cut: decided by whoever noted it first
 *   generation                               raised whenever it is opened again; jobs, parts and answers carry it
 *   life                                     the generation in which it was submitted or opened again
 *   submittedAt, deadlineAt ('' for none), resultTtlMs
 *   queued                                   the generation whose jobs are all in the queue
 *   durable, waiters, shared                 who wants it: so many who will come back, so many who wait, its key for joining
 *   waitingJobs, waitingBytes                what of it still counts against the bounds of its lane
 *   taken:<part>, lost:<part>                which parts were begun in this generation; how often their worker died, and who saw it last
 *   ended                                    the generation that was answered: where the answer is gone, it is lost
 *   unresolved                               '1' where it names no model and no worker had said yet which one is meant
 *   movedFrom                                generation and pool that its jobs come from, until they are all moved
 *   contentOf                                the generation whose failed jobs hold what is tried again, until its own are all queued
 *   space                                    the score space of a split request: that of the worker that began it
 *   corpus                                   the corpus whose version is pinned for it
 */

const CLOCK = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`

/** What an error's answer begins with, up to its code. */
const CODE_OF = `
local function codeOf(answer)
  return string.match(answer, '^{"error":{"code":"([%w_]+)"')
end
`

/** Takes what is left of a request off its lane's load. */
const RELEASE = `
local function release(load, request, pool, lane, jobs, bytes)
  if jobs > 0 then
    local field = pool .. '|' .. lane
    -- Subtracted, not negated: Lua prints a negated zero as -0, which Redis takes for no number.
    if redis.call('HINCRBY', load, field .. '|jobs', 0 - jobs) <= 0 then
      redis.call('HDEL', load, field .. '|jobs', field .. '|bytes')
    else
      redis.call('HINCRBY', load, field .. '|bytes', 0 - bytes)
    end
    redis.call('HINCRBY', request, 'waitingJobs', 0 - jobs)
    redis.call('HINCRBY', request, 'waitingBytes', 0 - bytes)
  end
end
`

/**
 * Notes a request, or finds it noted. A failed answer that a retry can help is taken back. One that may share joins the
 * request of the same content that is under way, if there is one. Its jobs are promised to the lane here, so that the
 * lane's bounds hold however many producers there are.
 *
 * KEYS: request, result, parts, same, load, open, pools, fleet
 * ARGV: 1 id, 2 fingerprint, 3 what it shares or '', 4 model or '', 5 the pool's suffix, 6 the model where nobody says one,
 *   7 lane, 8 parts, 9 pairs, 10 bytes, 11 deadline in ms or '', 12 lifetime, 13 lifetime of the result, 14 bound of jobs,
 *   15 bound of bytes, 16 codes that a retry can help, 17 'durable', 'waits' or 'counted', 18 channel of the bell, 19 ms until it is looked after,
 *   20 the corpus that is pinned for it, or '', 21 how many shards the fleet has by who notes it
 */
const NOTE = `
${CLOCK}${CODE_OF}
if ARGV[3] ~= '' then
  local other = redis.call('HMGET', KEYS[4], 'id', 'queued', 'generation')
  if other[1] then
    redis.call('HINCRBY', KEYS[4], 'waiters', 1)
    return {'shared', other[1], other[2] or '0', other[3] or '0'}
  end
end
local known = redis.call('HMGET', KEYS[1], 'fingerprint', 'generation', 'pool', 'lane', 'parts', 'submittedAt', 'deadlineAt', 'queued', 'life', 'ended')
local deadline = ARGV[11] == '' and '' or string.format('%.0f', now + ARGV[11])
local parts = tonumber(ARGV[8])
local pool
local done = 0
if known[1] then
  if known[1] ~= ARGV[2] then return {'conflict'} end
  local answer = redis.call('GETRANGE', KEYS[2], 0, 99)
  local code = codeOf(answer)
  if answer ~= '' and not (code and string.find(ARGV[16], ' ' .. code .. ' ', 1, true)) then return {'answered'} end
  if answer == '' and known[10] ~= known[2] then
    -- Whatever became of the list of those to be looked after.
    redis.call('ZADD', KEYS[6], 'NX', now + ARGV[19], ARGV[1])
    -- Who has more time, or none to keep, decides for all.
    if known[7] ~= '' and (deadline == '' or tonumber(deadline) > tonumber(known[7])) then
      redis.call('HSET', KEYS[1], 'deadlineAt', deadline)
      known[7] = deadline
    end
    if ARGV[17] == 'durable' then redis.call('HINCRBY', KEYS[1], 'durable', 1) end
    if ARGV[17] == 'waits' then redis.call('HINCRBY', KEYS[1], 'waiters', 1) end
    local state = known[8] == known[2] and 'pending' or 'unqueued'
    return {state, known[2], known[3], known[4], known[5], known[6], known[7], known[9] or known[2]}
  end
  parts = tonumber(known[5])
  done = redis.call('HLEN', KEYS[3])
  if done == parts then
    redis.call('DEL', KEYS[3])
    done = 0
  end
  -- Parts that were scored are kept, and with them what scored them.
  if done > 0 then pool = known[3] end
end
local unresolved = false
if not pool then
  local model = ARGV[4]
  if model == '' then model = redis.call('HGET', KEYS[8], 'model') end
  unresolved = not model
  pool = (model or ARGV[6]) .. ARGV[5]
end
local jobs = parts - done
local bytes = math.floor(ARGV[10] * jobs / parts)
local field = pool .. '|' .. ARGV[7]
local waiting = redis.call('HMGET', KEYS[5], field .. '|jobs', field .. '|bytes')
local waitingJobs, waitingBytes = tonumber(waiting[1] or 0), tonumber(waiting[2] or 0)
if jobs > tonumber(ARGV[14]) or bytes > tonumber(ARGV[15]) then return {'too_large', jobs, bytes} end
if waitingJobs + jobs > tonumber(ARGV[14]) or waitingBytes + bytes > tonumber(ARGV[15]) then
  return {'overloaded', pool, waitingJobs, waitingBytes}
end
local fleet = redis.call('HMGET', KEYS[8], 'generation', 'shards')
if (fleet[2] or '1') ~= ARGV[21] then
  if redis.call('EXISTS', KEYS[8]) == 1 then return {'other_shards', fleet[2] or '1'} end
  redis.call('HSET', KEYS[8], 'shards', ARGV[21])
end
local generation = math.max(tonumber(fleet[1] or 0) + 1, now)
redis.call('HSET', KEYS[8], 'generation', string.format('%.0f', generation))
generation = string.format('%.0f', generation)
local submitted = string.format('%.0f', now)
if known[1] then
  redis.call('DEL', KEYS[2])
  for part = 0, parts - 1 do redis.call('HDEL', KEYS[1], 'taken:' .. part, 'lost:' .. part) end
  redis.call('HDEL', KEYS[1], 'queued', 'shared', 'waiters', 'durable', 'unresolved', 'contentOf')
  if done == 0 then redis.call('HDEL', KEYS[1], 'space') else redis.call('PEXPIRE', KEYS[3], ARGV[12]) end
end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[2], 'generation', generation, 'pool', pool, 'lane', ARGV[7], 'parts', parts,
  'pairs', ARGV[9], 'submittedAt', submitted, 'deadlineAt', deadline, 'resultTtlMs', ARGV[13], 'waitingJobs', jobs,
  'waitingBytes', bytes, 'corpus', ARGV[20], 'life', generation)
if unresolved then redis.call('HSET', KEYS[1], 'unresolved', '1') end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[4], 'id', ARGV[1], 'waiters', 1, 'generation', generation)
  redis.call('PEXPIRE', KEYS[4], ARGV[12])
  redis.call('HSET', KEYS[1], 'shared', ARGV[3])
elseif ARGV[17] == 'durable' then
  redis.call('HSET', KEYS[1], 'durable', '1')
else
  redis.call('HSET', KEYS[1], 'waiters', 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[12])
redis.call('HINCRBY', KEYS[5], field .. '|jobs', jobs)
redis.call('HINCRBY', KEYS[5], field .. '|bytes', bytes)
redis.call('ZADD', KEYS[6], unresolved and now or now + (ARGV[11] == '' and ARGV[19] or math.min(ARGV[11], ARGV[19])), ARGV[1])
redis.call('HSET', KEYS[7], pool, submitted)
if ARGV[5] ~= '' then redis.call('PUBLISH', ARGV[18], pool) end
return {known[1] and 'reopened' or 'new', generation, pool, ARGV[7], tostring(parts), submitted, deadline,
  known[2], known[3], known[4]}
`

/**
 * Nobody joins a request any more that Redis has lost, or lost the answer of.
 * KEYS: same, request; ARGV: id, the life that was joined
 */
const PART_FROM = `
local other = redis.call('HMGET', KEYS[1], 'id', 'generation')
if other[1] ~= ARGV[1] or other[2] ~= ARGV[2] then return 0 end
local note = redis.call('HMGET', KEYS[2], 'life', 'generation', 'ended')
if note[1] == ARGV[2] and note[2] ~= note[3] then return 0 end
return redis.call('DEL', KEYS[1])
`

/** All jobs of a generation are in the queue, of each of some requests. KEYS: request and same of each; ARGV: generation and id of each */
const QUEUED = `
for i = 1, #KEYS, 2 do
  if redis.call('HGET', KEYS[i], 'generation') == ARGV[i] then
    redis.call('HSET', KEYS[i], 'queued', ARGV[i])
    redis.call('HDEL', KEYS[i], 'movedFrom')
    if redis.call('HGET', KEYS[i + 1], 'id') == ARGV[i + 1] then redis.call('HSET', KEYS[i + 1], 'queued', '1') end
  end
end
return 1
`

/**
 * Takes back a note whose jobs could not be queued, unless somebody else relies on it or has begun it.
 * KEYS: request, load, open, same; ARGV: generation, id
 */
const WITHDRAW = `
${RELEASE}
local note = redis.call('HMGET', KEYS[1], 'generation', 'pool', 'lane', 'waitingJobs', 'waitingBytes', 'queued', 'parts', 'waiters', 'shared', 'durable')
if note[1] ~= ARGV[1] or note[6] == note[1] or tonumber(note[4]) < tonumber(note[7]) then return 0 end
local shared = note[9] and redis.call('HGET', KEYS[4], 'id') == ARGV[2]
local waiters = tonumber(note[8] or 0) + (shared and tonumber(redis.call('HGET', KEYS[4], 'waiters')) or 0)
if waiters + tonumber(note[10] or 0) > 1 then return 0 end
release(KEYS[2], KEYS[1], note[2], note[3], tonumber(note[4]), tonumber(note[5]))
redis.call('DEL', KEYS[1])
if shared then redis.call('DEL', KEYS[4]) end
redis.call('ZREM', KEYS[3], ARGV[2])
return 1
`

/**
 * Says which model an unresolved request means, before anybody has begun it. Its jobs go along under a new generation.
 * KEYS: request, result, load, pools, fleet; ARGV: generation
 */
const RESOLVE = `
${CLOCK}${RELEASE}
local note = redis.call('HMGET', KEYS[1], 'generation', 'pool', 'lane', 'parts', 'waitingJobs', 'waitingBytes', 'unresolved', 'queued')
local model = redis.call('HGET', KEYS[5], 'model')
if note[1] ~= ARGV[1] or not note[7] or not model or redis.call('EXISTS', KEYS[2]) == 1 then return {} end
-- Where its producer is still at it, its jobs are moved when they are all there.
if note[8] ~= note[1] then return {} end
local jobs, bytes = tonumber(note[5]), tonumber(note[6])
if jobs < tonumber(note[4]) then
  redis.call('HDEL', KEYS[1], 'unresolved')
  return {}
end
local pool = string.gsub(note[2], '^[^@+&]*', (string.gsub(model, '%%', '%%%%')), 1)
if pool == note[2] then
  redis.call('HDEL', KEYS[1], 'unresolved')
  return {}
end
release(KEYS[3], KEYS[1], note[2], note[3], jobs, bytes)
local generation = string.format('%.0f', math.max(tonumber(redis.call('HGET', KEYS[5], 'generation') or 0) + 1, now))
redis.call('HSET', KEYS[5], 'generation', generation)
redis.call('HSET', KEYS[1], 'generation', generation, 'pool', pool, 'waitingJobs', jobs, 'waitingBytes', bytes,
  'movedFrom', note[1] .. ' ' .. note[2])
redis.call('HDEL', KEYS[1], 'queued', 'unresolved')
redis.call('HINCRBY', KEYS[3], pool .. '|' .. note[3] .. '|jobs', jobs)
redis.call('HINCRBY', KEYS[3], pool .. '|' .. note[3] .. '|bytes', bytes)
redis.call('HSET', KEYS[4], pool, string.format('%.0f', now))
return {generation, pool}
`

/**
 * A worker takes a part up: whether it still has to be scored, and by whom.
 * KEYS: request, result, parts, load, held
 * ARGV: generation, part, score space, field and value of what the worker holds
 */
const TAKE = `
${CLOCK}${RELEASE}${CODE_OF}
local note = redis.call('HMGET', KEYS[1], 'generation', 'pool', 'lane', 'parts', 'submittedAt', 'deadlineAt', 'waitingJobs', 'waitingBytes', 'space', 'shared')
local answer = redis.call('GETRANGE', KEYS[2], 0, 99)
-- What it does not go on with it does not hold: it may have been taken before, by a try that Redis ended.
if note[1] ~= ARGV[1] or answer ~= '' then redis.call('HDEL', KEYS[5], ARGV[4]) end
if not note[1] then return {'gone'} end
if note[1] ~= ARGV[1] then return {'stale'} end
if answer ~= '' then return {'answered', 0, 0, '', '', '', codeOf(answer) or ''} end
if redis.call('HSETNX', KEYS[1], 'taken:' .. ARGV[2], '1') == 1 then
  local jobs, bytes = tonumber(note[7]), tonumber(note[8])
  if jobs > 0 then release(KEYS[4], KEYS[1], note[2], note[3], 1, math.floor(bytes / jobs)) end
end
local outcome = 'score'
local parts = tonumber(note[4])
if parts > 1 then
  if redis.call('HEXISTS', KEYS[3], ARGV[2]) == 1 then
    outcome = redis.call('HLEN', KEYS[3]) == parts and 'merge' or 'done'
  elseif note[9] and note[9] ~= ARGV[3] then
    outcome = 'elsewhere'
  else
    redis.call('HSET', KEYS[1], 'space', ARGV[3])
  end
end
if (outcome == 'score' or outcome == 'elsewhere') and note[6] ~= '' and now > tonumber(note[6]) then outcome = 'late' end
if outcome == 'score' or outcome == 'merge' or outcome == 'late' then
  redis.call('HSET', KEYS[5], ARGV[4], ARGV[5])
else
  redis.call('HDEL', KEYS[5], ARGV[4])
end
return {outcome, string.format('%.0f', now), note[5], note[6], note[9] or '', note[10] or ''}
`

/** A part goes back into the queue as if nobody had taken it. KEYS: request, load, held, result; ARGV: generation, part, what was held */
const GIVE_BACK = `
redis.call('HDEL', KEYS[3], ARGV[3])
local note = redis.call('HMGET', KEYS[1], 'generation', 'pool', 'lane')
if note[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
if redis.call('HDEL', KEYS[1], 'taken:' .. ARGV[2]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[1], 'waitingJobs', 1)
redis.call('HINCRBY', KEYS[2], note[2] .. '|' .. note[3] .. '|jobs', 1)
return 1
`

/**
 * A split request goes on in another score space, since nobody is left who scores in the one it began in. What was scored
 * is scored again.
 * KEYS: request, parts; ARGV: generation, space before, space after
 */
const REBASE = `
local note = redis.call('HMGET', KEYS[1], 'generation', 'space')
if note[1] ~= ARGV[1] or note[2] ~= ARGV[2] then return {} end
local scored = redis.call('HKEYS', KEYS[2])
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'space', ARGV[3])
return scored
`

/**
 * Keeps one scored part; the call that brings the last one gets all of them.
 * KEYS: request, result, parts, held; ARGV: generation, part, data, score space, what the worker held
 */
const WRITE_PART = `
local note = redis.call('HMGET', KEYS[1], 'generation', 'parts', 'space')
if note[1] ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HDEL', KEYS[4], ARGV[5]) end
if not note[1] then return {'gone'} end
if note[1] ~= ARGV[1] then return {'stale'} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'answered'} end
if note[3] ~= ARGV[4] then return {'elsewhere'} end
redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], math.max(1, redis.call('PTTL', KEYS[1])))
if redis.call('HLEN', KEYS[3]) == tonumber(note[2]) then return {'all', redis.call('HVALS', KEYS[3])} end
redis.call('HDEL', KEYS[4], ARGV[5])
return {'kept'}
`

/**
 * Writes the answer of a generation, if there is none yet, counts it and tells whoever waits. One who gives up ends the
 * request only where nobody else wants it. Parts outlive an error: a retry goes on from them.
 * KEYS: request, result, parts, open, load, same, held, ends
 * ARGV: generation, answer, outcome, channel, id, what the worker held or '', 'give up' or ''
 */
const ANSWER = `
${CLOCK}${RELEASE}
if ARGV[6] ~= '' then redis.call('HDEL', KEYS[7], ARGV[6]) end
local note = redis.call('HMGET', KEYS[1], 'generation', 'pool', 'lane', 'waitingJobs', 'waitingBytes', 'shared', 'resultTtlMs', 'waiters', 'durable', 'submittedAt')
if not note[1] then return {'gone'} end
if note[1] ~= ARGV[1] then return {'stale'} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'answered'} end
local shared = note[6] and redis.call('HGET', KEYS[6], 'id') == ARGV[5]
if ARGV[7] == 'give up' then
  local own, others = tonumber(note[8] or 0), shared and tonumber(redis.call('HGET', KEYS[6], 'waiters')) or 0
  if own + others + tonumber(note[9] or 0) > 1 then
    if shared then redis.call('HINCRBY', KEYS[6], 'waiters', -1) else redis.call('HINCRBY', KEYS[1], 'waiters', -1) end
    return {'wanted'}
  end
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', note[7])
redis.call('HSET', KEYS[1], 'ended', ARGV[1])
release(KEYS[5], KEYS[1], note[2], note[3], tonumber(note[4]), tonumber(note[5]))
redis.call('ZREM', KEYS[4], ARGV[5])
-- Where no request is open, nothing is promised, whatever became of the notes of some.
if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('DEL', KEYS[5]) end
if ARGV[3] == 'completed' then redis.call('DEL', KEYS[3]) else redis.call('PEXPIRE', KEYS[3], note[7]) end
redis.call('PEXPIRE', KEYS[1], note[7])
if shared then redis.call('DEL', KEYS[6]) end
redis.call('HINCRBY', KEYS[8], note[2] .. '|' .. note[3] .. '|' .. ARGV[3], 1)
redis.call('PEXPIRE', KEYS[8], 2592000000)
redis.call('PUBLISH', ARGV[4], ARGV[5])
return {'written', string.format('%.0f', now - note[10])}
`

/** Removes those of some requests that are answered. KEYS: request, result and parts of each */
const FORGET = `
local forgotten = {}
for i = 1, #KEYS, 3 do
  local entry = {}
  local head = redis.call('GETRANGE', KEYS[i + 1], 0, 8)
  if head ~= '' then
    local note = redis.call('HMGET', KEYS[i], 'generation', 'pool', 'lane', 'parts')
    redis.call('DEL', KEYS[i], KEYS[i + 1], KEYS[i + 2])
    entry = {note[1] or '', note[2] or '', note[3] or '', note[4] or '0', head}
  end
  forgotten[#forgotten + 1] = entry
end
return forgotten
`

/**
 * Opens a failed request again for what of it can be tried again, whatever its error; its content is in its failed jobs.
 * KEYS: request, result, parts, load, open, fleet; ARGV: id, generation before, lifetime, ms until it is looked after
 */
const RETRY = `
${CLOCK}${CODE_OF}
local note = redis.call('HMGET', KEYS[1], 'generation', 'pool', 'lane', 'parts', 'queued', 'contentOf')
if note[1] ~= ARGV[2] then return {'stale'} end
if not codeOf(redis.call('GETRANGE', KEYS[2], 0, 99)) then return {'not failed'} end
local generation = string.format('%.0f', math.max(tonumber(redis.call('HGET', KEYS[6], 'generation') or 0) + 1, now))
redis.call('HSET', KEYS[6], 'generation', generation)
local parts = tonumber(note[4])
local done = {}
for part = 0, parts - 1 do
  redis.call('HDEL', KEYS[1], 'taken:' .. part, 'lost:' .. part)
  if redis.call('HEXISTS', KEYS[3], part) == 1 then table.insert(done, tostring(part)) end
end
local jobs = parts - #done
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], 'generation', generation, 'submittedAt', string.format('%.0f', now), 'deadlineAt', '', 'durable', '1', 'life', generation,
  'waitingJobs', jobs, 'waitingBytes', 0)
-- Whoever did this before may have died before it had queued what the jobs then held.
local content = note[5] ~= note[1] and note[6] or note[1]
redis.call('HSET', KEYS[1], 'contentOf', content)
redis.call('HDEL', KEYS[1], 'queued', 'shared', 'waiters')
if #done == 0 then redis.call('HDEL', KEYS[1], 'space') end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
redis.call('HINCRBY', KEYS[4], note[2] .. '|' .. note[3] .. '|jobs', jobs)
redis.call('ZADD', KEYS[5], now + ARGV[4], ARGV[1])
return {'reopened', generation, string.format('%.0f', now), done, content}
`

/**
 * Gives a request of release 0.1.0, or one that has no note at all, the note that its jobs go by.
 * KEYS: request; ARGV: pool, lane, parts, pairs, time of submission, deadline or '', lifetime of the result, lifetime
 */
const ADOPT = `
if redis.call('HEXISTS', KEYS[1], 'generation') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'generation', '0', 'pool', ARGV[1], 'lane', ARGV[2], 'parts', ARGV[3], 'pairs', ARGV[4],
  'submittedAt', ARGV[5], 'deadlineAt', ARGV[6], 'resultTtlMs', ARGV[7], 'waitingJobs', 0, 'waitingBytes', 0, 'durable', '1',
  'queued', '0')
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[8]) end
return 1
`

/** How often the worker of a part has died; each hold is lost once, whoever sees it. KEYS: request; ARGV: generation, part, token of the hold */
const LOSE = `
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
local lost = redis.call('HGET', KEYS[1], 'lost:' .. ARGV[2]) or '0'
local count, token = string.match(lost, '^(%d+) ?(.*)$')
if token == ARGV[3] then return tonumber(count) end
redis.call('HSET', KEYS[1], 'lost:' .. ARGV[2], (count + 1) .. ' ' .. ARGV[3])
return count + 1
`

/**
 * Requests that somebody should look after: those that it is time for, and those that it would be time for later than ever is
 * said, because Redis' clock was set back. KEYS: open; ARGV: how many, ms in which any is looked after
 */
const DUE = `
${CLOCK}
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
if #ids == 0 then
  local latest = string.format('%.0f', now + ARGV[2])
  ids = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. latest, '+inf', 'LIMIT', 0, ARGV[1])
end
return {string.format('%.0f', now), ids}
`

/**
 * Looked after: again in a while, or never where there is no note any more. What a note that ran out was promised is not
 * known then; but where no request is open, nothing is promised.
 * KEYS: open, request, load; ARGV: id, ms
 */
const LATER = `
${CLOCK}
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('DEL', KEYS[3]) end
  return 0
end
return redis.call('ZADD', KEYS[1], 'XX', now + ARGV[2], ARGV[1])
`

/** Those of any number of requests are told the number of their keys with each call. */
export const REQUEST_SCRIPTS = {
  rankmillNote: { numberOfKeys: 8, lua: NOTE },
  rankmillPartFrom: { numberOfKeys: 2, lua: PART_FROM },
  rankmillQueued: { lua: QUEUED },
  rankmillWithdraw: { numberOfKeys: 4, lua: WITHDRAW },
  rankmillResolve: { numberOfKeys: 5, lua: RESOLVE },
  rankmillTake: { numberOfKeys: 5, lua: TAKE },
  rankmillGiveBack: { numberOfKeys: 4, lua: GIVE_BACK },
  rankmillRebase: { numberOfKeys: 2, lua: REBASE },
  rankmillWritePart: { numberOfKeys: 4, lua: WRITE_PART },
  rankmillAnswer: { numberOfKeys: 8, lua: ANSWER },
  rankmillForget: { lua: FORGET },
  rankmillRetry: { numberOfKeys: 6, lua: RETRY },
  rankmillAdopt: { numberOfKeys: 1, lua: ADOPT },
  rankmillLose: { numberOfKeys: 1, lua: LOSE },
  rankmillDue: { numberOfKeys: 1, lua: DUE },
  rankmillLater: { numberOfKeys: 3, lua: LATER },
} as const
