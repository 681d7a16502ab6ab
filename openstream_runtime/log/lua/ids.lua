-- Stream ids as text. Halves are compared as decimal strings: a Lua number loses digits beyond 2^53.
local function less(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function before(a, b)
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  if ams ~= bms then return less(ams, bms) end
  return less(aseq, bseq)
end

local function first_entry(stream)
  local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return entry and entry[1]
end

local function last_entry(stream)
  local entry = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return entry and entry[1]
end

-- How many entries stand after an id, or false when they are more than `limit`. In pages: a reply is copied into Lua.
local function count_after(stream, id, limit)
  local last = last_entry(stream)
  if not last or not before(id, last) then return 0 end
  if before(id, first_entry(stream)) then return redis.call('XLEN', stream) end
  local count, from = 0, '(' .. id
  while true do
    local page = redis.call('XRANGE', stream, from, '+', 'COUNT', 100)
    count = count + #page
    if #page < 100 then return count end
    if limit and count > limit then return false end
    from = '(' .. page[#page][1]
  end
end

-- The largest id below one: PostgreSQL's integers end where this says that a sequence does.
local function preceding(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if seq ~= '0' then return ms .. '-' .. string.format('%.0f', tonumber(seq) - 1) end
  if ms == '0' then return id end
  return string.format('%.0f', tonumber(ms) - 1) .. '-9223372036854775807'
end
