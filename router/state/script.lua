-- Rates, budgets and slots in Redis: the same rules as in ledger.py, which the same tests run against.
--
-- KEYS[1]  prefix of every key, with a hash tag: in a cluster all of them live in one slot
-- ARGV[1]  MessagePack: list of operations, carried out in order; each gets one reply
-- ARGV[2]  epoch time in seconds; empty, but in tests: the server's own clock decides
-- ARGV[3]  seconds that an unsettled claim is known to be its holder's
-- ARGV[4]  seconds that a settled holder is known to be settled
-- ARGV[5]  seconds after which a denied slot should be asked for again
-- ARGV[6]  versions of a document that are kept
-- ARGV[7]… contents of the documents that the operations write, in order: cmsgpack knows no bytes
--
-- One key a holder, `PREFIX:holder:NAME`: MessagePack of {claim -> {amount, window, ttl_s}, or false when settled};
-- an empty string says that all of it is settled.

local prefix = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(ARGV[2]) or tonumber(time[1]) + tonumber(time[2]) / 1e6
local HELD_S, SETTLED_S, SLOT_RETRY_S = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local HISTORY_LENGTH = tonumber(ARGV[6])
local TOLERANCE = 1e-9 -- of a limit: sums of decimal fractions are not exact
local NEVER = -1 -- as retry_after_s: waiting cannot help
local DAY_S = 86400

local function number(value) return string.format('%.17g', value) end

local function milliseconds(seconds) return math.max(1, math.ceil(seconds * 1000)) end

local function is_leap(year) return year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) end

local function days_of_month(year, month)
  if month == 2 then return is_leap(year) and 29 or 28 end
  return (month == 4 or month == 6 or month == 9 or month == 11) and 30 or 31
end

-- Number and end of the day or month (UTC) that it is now.
local function window_of(period)
  local day = math.floor(now / DAY_S)
  if period == 'day' then return day, (day + 1) * DAY_S end
  local year, first = 1970, 0
  while first + (is_leap(year) and 366 or 365) <= day do
    first = first + (is_leap(year) and 366 or 365)
    year = year + 1
  end
  local month = 1
  while first + days_of_month(year, month) <= day do
    first = first + days_of_month(year, month)
    month = month + 1
  end
  return (year - 1970) * 12 + month - 1, (first + days_of_month(year, month)) * DAY_S
end

-- Claims: {'rate', key, per_minute, amount}, {'budget', key, limit, amount, period}, {'slots', key, limit, ttl_s}

local function key_of(claim)
  if claim[1] == 'budget' then return prefix .. ':budget_' .. claim[5] .. ':' .. claim[2] end
  return prefix .. ':' .. claim[1] .. ':' .. claim[2]
end

local function two_numbers(key)
  local text = redis.call('GET', key)
  if not text then return nil end
  local first, second = string.match(text, '^(%S+) (%S+)$')
  return tonumber(first), tonumber(second)
end

local function level_of(claim)
  local level, at = two_numbers(key_of(claim))
  if not level then return claim[3] end
  return math.min(claim[3], level + math.max(0, now - at) * claim[3] / 60)
end

local function set_level(claim, level)
  local full_s = claim[3] > 0 and (claim[3] - level) * 60 / claim[3] or DAY_S
  redis.call('SET', key_of(claim), number(level) .. ' ' .. number(now), 'PX', milliseconds(full_s + 1))
end

local function spent_in(claim, window)
  local its_window, spent = two_numbers(key_of(claim))
  return its_window == window and spent or 0
end

local function set_spent(claim, window, ends, spent)
  redis.call('SET', key_of(claim), window .. ' ' .. number(spent), 'PX', milliseconds(ends - now + 1))
end

-- The claims of a holder and whether all of them are settled.
local function claims_of(holder)
  local text = redis.call('GET', prefix .. ':holder:' .. holder)
  if not text then return {}, false end
  if text == '' then return {}, true end
  return cmsgpack.unpack(text), false
end

local function keep_claims(holder, claims)
  local settled = true
  for _, held in pairs(claims) do settled = settled and not held end
  local text = settled and '' or cmsgpack.pack(claims)
  redis.call('SET', prefix .. ':holder:' .. holder, text, 'EX', settled and SETTLED_S or HELD_S)
end

-- What one claim would find and take: {admitted, retry_after_s, left, amount, reset_s, what there is: the level of the
-- bucket or what was spent, number of the window, end of the window}
local function examine(claim, holder, claims)
  local kind, limit, amount = claim[1], claim[3], claim[4]
  local ours = claims[key_of(claim)] ~= nil
  if ours then amount = 0 end
  if kind == 'rate' then
    local level = level_of(claim)
    local missing = amount - level
    local wait_s = (limit > 0 and amount <= limit) and missing * 60 / limit or NEVER
    local full_s = limit > 0 and (limit - level + amount) * 60 / limit or 0
    return {ours or missing <= limit * TOLERANCE, wait_s, level, amount, full_s, level}
  elseif kind == 'budget' then
    local window, ends = window_of(claim[5])
    local spent = spent_in(claim, window)
    local left = limit - spent
    local admitted = ours or (left > limit * TOLERANCE and amount <= left + limit * TOLERANCE)
    local wait_s = (amount > limit or limit <= 0) and NEVER or ends - now
    return {admitted, wait_s, left, amount, ends - now, spent, window, ends}
  end
  local key = key_of(claim)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', number(now))
  ours = ours or redis.call('ZSCORE', key, holder)
  local left = limit - redis.call('ZCARD', key)
  return {(ours or left >= 1) and true or false, limit > 0 and SLOT_RETRY_S or NEVER, left, ours and 0 or 1, 0}
end

local function hold_slot(key, holder, ttl_s)
  redis.call('ZADD', key, number(now + ttl_s), holder)
  if redis.call('PTTL', key) < ttl_s * 1000 then redis.call('PEXPIRE', key, milliseconds(ttl_s + 1)) end
end

local function take(claim, holder, found)
  if claim[1] == 'rate' then
    set_level(claim, found[6] - claim[4])
    return {claim[4], -1, 0}
  elseif claim[1] == 'budget' then
    set_spent(claim, found[7], found[8], found[6] + claim[4])
    return {claim[4], found[7], 0}
  end
  hold_slot(key_of(claim), holder, claim[4])
  return {1, -1, claim[4]}
end

local function correct(claim, actual, held, holder)
  local surplus = held[1] - actual
  if claim[1] == 'rate' then
    set_level(claim, math.min(claim[3], level_of(claim) + surplus))
  elseif claim[1] == 'budget' then
    local window, ends = window_of(claim[5])
    if held[2] == -1 or held[2] == window then -- a window that is over does not matter any more
      set_spent(claim, window, ends, math.max(0, spent_in(claim, window) - surplus))
    end
  else
    redis.call('ZREM', key_of(claim), holder)
  end
end

local operations = {}

-- {'admit', holder, claims} -> {admitted, index of the claim that has to be waited for longest, or -1,
--                               retry_after_s, {left}, {reset_s}}
function operations.admit(operation)
  local holder, wanted = operation[2], operation[3]
  local claims = claims_of(holder)
  local worst, retry_after_s, remaining, resets = -1, 0, {}, {}
  local takes = {}
  for index, claim in ipairs(wanted) do
    local found = examine(claim, holder, claims)
    takes[index], resets[index] = found, found[5]
    if not found[1] then
      local longer = worst == -1 or (retry_after_s ~= NEVER and (found[2] == NEVER or found[2] > retry_after_s))
      if longer then worst, retry_after_s = index - 1, found[2] end
    end
  end
  for index, found in ipairs(takes) do
    remaining[index] = math.max(0, worst == -1 and found[3] - found[4] or found[3])
  end
  if worst == -1 then
    for index, claim in ipairs(wanted) do
      local key = key_of(claim)
      if claims[key] == nil then claims[key] = take(claim, holder, takes[index]) end
    end
    keep_claims(holder, claims)
  end
  return {worst == -1, worst, retry_after_s, remaining, resets}
end

-- {'settle', holder, {{claim, actual_amount}}}
function operations.settle(operation)
  local holder = operation[2]
  local claims, all_settled = claims_of(holder)
  if all_settled then return true end
  for _, adjust in ipairs(operation[3]) do
    local key = key_of(adjust[1])
    local held = claims[key]
    if held == nil then held = {0, -1, 0} end -- never claimed: charged in full
    if held then
      correct(adjust[1], adjust[2], held, holder)
      claims[key] = false
    end
  end
  keep_claims(holder, claims)
  return true
end

-- {'renew', holders}
function operations.renew(operation)
  for _, holder in ipairs(operation[2]) do
    local claims = claims_of(holder)
    if next(claims) then
      redis.call('EXPIRE', prefix .. ':holder:' .. holder, HELD_S)
      for key, held in pairs(claims) do
        if held and held[3] > 0 and redis.call('ZSCORE', key, holder) then hold_slot(key, holder, held[3]) end
      end
    end
  end
  return true
end

local contents = 6 -- arguments before the next one

-- {'write', name, expected version or -1} -> {written, version, written_s}: the new or the current one
function operations.write(operation)
  local key, expected = prefix .. ':document:' .. operation[2], operation[3]
  contents = contents + 1
  local version = two_numbers(key .. ':stamp') or 0
  if expected ~= -1 and expected ~= version then return {false, version, 0} end
  local stamp = (version + 1) .. ' ' .. number(now)
  redis.call('LPUSH', key, stamp .. '\n' .. ARGV[contents])
  redis.call('LTRIM', key, 0, HISTORY_LENGTH - 1)
  redis.call('SET', key .. ':stamp', stamp)
  return {true, version + 1, now}
end

-- {'probe'}: fails where nothing may be written, as on a replica that was a master before
function operations.probe()
  redis.call('SET', prefix .. ':probe', '', 'PX', 1000)
  return true
end

local replies = {}
for index, operation in ipairs(cmsgpack.unpack(ARGV[1])) do
  replies[index] = operations[operation[1]](operation)
end
return cmsgpack.pack(replies)
