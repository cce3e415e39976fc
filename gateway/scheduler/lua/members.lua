-- Change the registered accounts and keys, or their states set by operators.
-- ARGV[1]  "declare": ARGV[2] JSON of a process's configuration: process, digest, until_us (its expiry without
--                     renewal), terms: {field of meta: number}, accounts: {NAME: {requests_per_minute,
--                     images_per_minute, max_concurrency, weight, keys: [{name, fingerprint}]}}
--          "renew", "withdraw": ARGV[2] JSON: process, digest, until_us
--          "add":     ARGV[2] "ACCOUNT/KEY", ARGV[3] JSON: fingerprint, sealed, limits (if the account is not declared)
--          "reseal":  as "add", for an existing key
--          "replace": as "add", for an existing key: its secret; the limits stay
--          "remove":  ARGV[2] "ACCOUNT/KEY"
--          "hold":    ARGV[2] "ACCOUNT" or "ACCOUNT/KEY", ARGV[3] JSON: event (disable, drain, enable), since_us, by
--          "lift":    ARGV[2] "*": ends the cooldown of the whole upstream
--          "note":    ARGV[2] "ACCOUNT/KEY": for the audit log only
--          "probed":  ARGV[2] "ACCOUNT/KEY", ARGV[3] JSON, result of a key check: works, error_code (if it works: the
--                     reason of the cooldown), scope, state, further seconds of cooldown
-- ARGV[4..] audit: retention in seconds, actor, action, key_id, after, request_id; absent for changes without an
--           operator
-- Returns  JSON: decision "done", "exists", "twin" (account, key: the one with the same secret), "missing", "declared"
--          (a configured key cannot be removed), "kept" (a renewal without changes) or "unknown"
local DIGESTS_MAX = 1000  -- configurations whose first registration is remembered
local act, subject, text = ARGV[1], ARGV[2], ARGV[3]
local name = string.match(subject, '^[^/]*')  -- of the account
local before = ''                             -- for the audit log
local ACTS = {}

-- The configurations of all live processes, newest first: {accounts, terms, at}. Age counts from the first
-- registration, so a process that restarts with an old configuration does not make it the newest.
local function declarations()
  local living, found = {}, {}
  redis.call('ZREMRANGEBYSCORE', K.holders, '-inf', now)
  for _, holder in ipairs(redis.call('ZRANGE', K.holders, 0, -1)) do living[string.match(holder, '^[^|]*')] = true end
  each_field(K.declared, function(digest, declared)
    if not living[digest] then return redis.call('HDEL', K.declared, digest) end
    local declaration = cjson.decode(declared)
    declaration.at = tonumber(redis.call('ZSCORE', K.digests, digest) or 0)
    found[#found + 1] = declaration
  end)
  table.sort(found, function(left, right) return left.at > right.at end)
  return found
end

-- The accounts by name: limits of the newest configuration, keys of all, and the added ones.
local function merged(declared)
  local found, taken = {}, {}
  local function add(account, limits, keys, is_added)
    local record = found[account] or {keys = {}}
    for field, value in pairs(found[account] and {} or limits) do
      if field ~= 'keys' then record[field] = value end
    end
    for _, key in ipairs(keys) do
      local member = account .. '/' .. key.name
      local new = {name = key.name, fingerprint = key.fingerprint, is_added = is_added}
      if not taken[member] then record.keys[#record.keys + 1] = new end
      taken[member] = true
    end
    found[account] = record
  end
  for _, declaration in ipairs(declared) do
    for account, own in pairs(declaration.accounts) do add(account, own, own.keys) end
  end
  each_field(K.added, function(member, kept)
    local account, key = string.match(member, '^([^/]*)/(.*)$')
    local added = cjson.decode(kept)
    add(account, added.limits, {{name = key, fingerprint = added.fingerprint}}, true)
  end)
  return found
end

-- A key with a new secret starts without cooldowns.
local function forget_cooldowns(account, record, after)
  local fingerprints, gone = {}, {}
  for _, key in ipairs(after and after.keys or {}) do fingerprints[key.name] = key.fingerprint end
  for _, key in ipairs(record.keys) do
    if fingerprints[key.name] ~= key.fingerprint then gone[account .. '/' .. key.name] = true end
  end
  if not next(gone) and after then return end
  for _, field in ipairs(redis.call('HKEYS', K.health)) do
    if gone[string.match(field, '^[^|]*')] then move(field, 'replace') end
    if not after and field == account then drop_cooldown(field) end
  end
end

-- Rebuilds one account, or all present, former and new ones. Multiples of the golden ratio offset the even paces of any
-- number of accounts evenly.
local function rebuild(declared, only)
  local all, names, others = merged(declared), {only}, only and redis.call('HLEN', K.members) or 0
  if not only then
    for field, value in pairs(declared[1] and declared[1].terms or {}) do set_meta(field, value) end
    for _, set in ipairs({K.members, K.loads}) do
      for _, account in ipairs(redis.call('HKEYS', set)) do all[account] = all[account] or false end
    end
    for account in pairs(all) do names[#names + 1] = account end
    table.sort(names)
  end
  for i, account in ipairs(names) do
    local record = all[account]
    if records[account] then forget_cooldowns(account, records[account], record) end
    if record then
      record.phase = (others + i - 1) * 0.6180339887 % 1
      table.sort(record.keys, function(left, right) return left.name < right.name end)
      redis.call('HSET', touch('members'), account, cjson.encode(record))
    else
      redis.call('HDEL', K.members, account)
    end
    records[account], accounts[account] = record or false, nil
    if accounts[account] then put_back(accounts[account]) end
  end
  return 'done'
end

-- A process has one configuration at a time.
local function hold_on(configuration)
  for _, holder in ipairs(redis.call('ZRANGE', K.holders, 0, -1)) do
    local digest, process = string.match(holder, '^([^|]*)|(.*)$')
    local is_former = process == configuration.process and digest ~= configuration.digest
    if is_former then redis.call('ZREM', K.holders, holder) end
  end
  local holder = configuration.digest .. '|' .. configuration.process
  redis.call('ZADD', touch('holders'), now + configuration.until_us, holder)
end

function ACTS.declare()
  local new = cjson.decode(subject)
  hold_on(new)
  redis.call('HSET', touch('declared'), new.digest, cjson.encode({accounts = new.accounts, terms = new.terms}))
  local newest = redis.call('ZRANGE', K.digests, -1, -1, 'WITHSCORES')[2]
  local at = math.max(now, tonumber(newest or 0) + 1)  -- even if the clock was set back
  redis.call('ZADD', touch('digests'), 'NX', at, new.digest)
  redis.call('ZREMRANGEBYRANK', K.digests, 0, -DIGESTS_MAX - 1)
  return rebuild(declarations())
end

-- "kept" without changes; "done" if other configurations have expired.
function ACTS.renew()
  local own, count = cjson.decode(subject), redis.call('HLEN', K.declared)
  if redis.call('HEXISTS', K.declared, own.digest) == 0 then return 'unknown' end
  hold_on(own)
  local declared = declarations()
  if redis.call('HLEN', K.declared) == count then return 'kept' end
  return rebuild(declared)
end

-- A process shuts down. Accounts only it had are removed at the next registration, because it may restart soon.
function ACTS.withdraw()
  local own = cjson.decode(subject)
  redis.call('ZREM', K.holders, own.digest .. '|' .. own.process)
  return 'kept'
end

-- Whether the subject, an account or a key, exists.
local function is_there()
  if name == subject then return records[name] ~= false end
  for _, key in ipairs(records[name] and records[name].keys or {}) do
    if name .. '/' .. key.name == subject then return true end
  end
  return false
end

-- The key with this secret, as a reply: a second one is refused, as its account's limits would count twice.
local function twin_of(fingerprint)
  local twin
  each_field(K.members, function(account, kept)
    for _, key in ipairs(cjson.decode(kept).keys) do
      if key.fingerprint == fingerprint then twin = {decision = 'twin', account = account, key = key.name} end
    end
  end)
  return twin
end

function ACTS.add()
  if is_there() then return 'exists' end
  local twin = twin_of(cjson.decode(text).fingerprint)
  if twin then return 'twin', twin end
  redis.call('HSET', K.added, subject, text)
  redis.call('HDEL', K.held, subject)
  return rebuild(declarations(), name)
end

function ACTS.reseal()
  if redis.call('HEXISTS', K.added, subject) == 0 then return 'missing' end
  redis.call('HSET', K.added, subject, text)
  return 'done'
end

-- Of a former key only the secret is replaced: cooldowns of it end, a state set by an operator stays.
function ACTS.replace()
  local kept = redis.call('HGET', K.added, subject)
  if not kept then return is_there() and 'declared' or 'missing' end
  local added, new = cjson.decode(kept), cjson.decode(text)
  local twin = twin_of(new.fingerprint)
  if twin then return 'twin', twin end
  before = cjson.encode({fingerprint = added.fingerprint})
  added.sealed, added.fingerprint = new.sealed, new.fingerprint
  redis.call('HSET', K.added, subject, cjson.encode(added))
  return rebuild(declarations(), name)
end

function ACTS.remove()
  local kept = redis.call('HGET', K.added, subject)
  if not kept then return is_there() and 'declared' or 'missing' end
  before = cjson.encode({fingerprint = cjson.decode(kept).fingerprint})
  redis.call('HDEL', K.added, subject)
  redis.call('HDEL', K.held, subject)
  return rebuild(declarations(), name)
end

function ACTS.hold()
  if not is_there() then return 'missing' end
  local new, held = cjson.decode(text), holds[subject]
  local state = held and held.state or 'ready'
  local after = HOLDS[state][new.event]
  before = cjson.encode({state = state})
  if after == 'ready' then  -- it ends cooldowns too: the operator knows that the cause is fixed
    redis.call('HDEL', K.held, subject)
    for _, field in ipairs(redis.call('HKEYS', K.health)) do
      local member = string.match(field, '^[^|]*')
      local is_own = member == subject or string.match(member, '^[^/]*') == subject
      if is_own and is_out(cooldowns[field]) then move(field, 'enable') end
    end
  else
    redis.call('HSET', K.held, subject, cjson.encode({state = after, since_us = new.since_us, by = new.by}))
  end
  holds[subject] = nil
  put_back(accounts[name])
  if held or after ~= 'ready' then emit(subject, after) end
  return 'done'
end

-- The whole upstream's cooldown or open breaker ends: the next request may try it.
function ACTS.lift()
  before = cjson.encode({state = state_of(cooldowns['*'])})
  if is_out(cooldowns['*']) then move('*', 'enable') end
  return 'done'
end

function ACTS.note() return is_there() and 'done' or 'missing' end

-- Applies a key check: cooldowns for its error become half-open, or continue for the given seconds from now and for all
-- tenants. A new error starts a cooldown of its scope. One key that works speaks for the upstream; one that does not,
-- does not.
function ACTS.probed()
  local check, fields, is_known = cjson.decode(text), {key = subject, account = name, upstream = '*'}, false
  for scope, field in pairs(fields) do
    local cooldown = cooldowns[field]
    local is_same = cooldown and cooldown.error_code == check.error_code
    if is_same and (check.works and not cooldown.busy or scope ~= 'upstream' or check.scope == 'upstream') then
      is_known = true
      if check.works then
        move(field, 'check_passed')
      else
        cooldown.until_us, cooldown.seconds = now + check.seconds * 1000000, check.seconds
        cooldown.announced, cooldown.by = nil, nil
        save_cooldown(field, cooldown)
        announce(field)
      end
    end
  end
  if not is_known and not check.works and fields[check.scope] then
    move(fields[check.scope], check.state == 'quarantined' and 'quarantine' or 'cool', check)
  end
  if accounts[name] then put_back(accounts[name]) end
  return 'done'
end

operator, held_subject = ARGV[5], subject
local decision, found = ACTS[act]()
if decision == 'done' then
  if act == 'hold' or act == 'remove' or act == 'probed' then begin_outage() end
  -- Slots per image and per microsecond of concurrency, from the accounts' limits; a call is at least one slot.
  local requests, images, concurrency = 0, 0, 0
  each_field(K.members, function(_, kept)
    local record = cjson.decode(kept)
    requests, images = requests + record.requests_per_minute, images + record.images_per_minute
    concurrency = concurrency + record.max_concurrency
  end)
  set_meta('slots_per_image', images > 0 and requests / images or 0)
  set_meta('slots_per_us', concurrency > 0 and math.min(requests / (concurrency * MINUTE), 1 / SLOT_MIN) or 0)
  add_meta('version', 1)
  if ARGV[4] then
    local oldest_ms = math.max(0, now / 1000000 - tonumber(ARGV[4])) * 1000
    redis.call('XADD', K.audit, 'MINID', '~', moment(oldest_ms), '*', 'actor', ARGV[5], 'action', ARGV[6], 'key_id',
      ARGV[7], 'before', before, 'after', ARGV[8], 'request_id', ARGV[9])
  end
  dispatch_freed()
end
return reply(found or {decision = decision})
